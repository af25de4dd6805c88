import pytest
import torch
from torch import nn

from workbench.core.errors import AskError
from workbench.models.placement import available, choose


def test_a_cpu_takes_float32_unless_told() -> None:
    place = choose("cpu")
    assert (place.device.type, place.dtype, place.memory_format) == ("cpu", torch.float32, torch.contiguous_format)


@pytest.mark.parametrize("name", ["bfloat16", "bf16", "torch.bfloat16"])
def test_a_dtype_has_several_names(name: str) -> None:
    assert choose("cpu", name).dtype == torch.bfloat16


def test_half_precision_on_a_cpu_is_refused_with_the_alternative() -> None:
    with pytest.raises(AskError, match="Take float32 or bfloat16"):
        choose("cpu", "fp16")


def test_what_is_not_there_is_told_with_what_is() -> None:
    with pytest.raises(AskError, match=r"The device is 'tpu'; this machine has: .*cpu"):
        choose("tpu")
    with pytest.raises(AskError, match=r"The dtype is 'int8'; there are: float32, float16, bfloat16"):
        choose("cpu", "int8")


def test_the_cpu_is_always_there_and_last() -> None:
    assert available()[-1] == "cpu"


def test_convolutions_take_the_memory_format_and_other_modules_stay() -> None:
    place = choose("cpu", "bfloat16")
    conv, linear = nn.Conv2d(4, 8, 3), nn.Linear(4, 4)
    for module in (conv, linear):
        place.put(module)
    assert conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert linear.weight.dtype == torch.bfloat16


@pytest.mark.gpu
def test_a_gpu_takes_half_precision_for_large_models_alone() -> None:
    assert choose("cuda", "", 10_000_000).dtype == torch.float32
    assert choose("cuda", "", 900_000_000).dtype == torch.float16
