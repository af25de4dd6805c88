import torch

from tests.tiny import tiny_sd
from workbench.runs.environment import differences, environment


def test_it_names_versions_device_precision_and_threads() -> None:
    known = environment(tiny_sd())
    assert known["versions"]["torch"] == torch.__version__
    assert (known["device"], known["dtype"], known["threads"]) == ("cpu", "float32", torch.get_num_threads())


def test_only_what_changes_pixels_is_a_difference() -> None:
    then = environment(tiny_sd())
    now = {**then, "threads": 99, "processors": 99, "versions": {**then["versions"], "torch": "9.9", "pillow": "1"}}
    assert differences(then, then) == []
    assert differences(then, now) == [f"threads was {then['threads']}, is 99", f"torch was {torch.__version__}, is 9.9"]
