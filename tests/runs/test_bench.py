import json

import pytest
import torch

from tests.tiny import tiny_sd
from workbench.core.errors import AskError
from workbench.core.patch import fingerprint
from workbench.runs.bench import Options, Way, as_text, measure, run_bench, timed_seams, topics
from workbench.runs.verbs import sample

CPU = torch.device("cpu")


def test_the_first_turn_is_a_warm_up_and_the_ways_take_turns() -> None:
    calls: list[str] = []

    def way(name: str) -> Way:
        return Way(lambda: calls.append(name) or {"share": 0.5})

    rows = measure({"plain": way("plain"), "ours": way("ours")}, 5, CPU)
    assert len(calls) == 12
    assert calls[2:6] == ["plain", "ours", "ours", "plain"]
    assert [row["name"] for row in rows] == ["plain", "ours"]
    assert rows[0]["numbers"]["ratio"] == 1.0
    assert rows[1]["numbers"]["share"] == 0.5
    assert set(rows[0]["numbers"]) >= {"seconds", "least", "most", "ratio", "peak_mib"}


def test_seams_are_timed_and_left_as_they_were() -> None:
    before = fingerprint(tiny_sd())
    with timed_seams(tiny_sd()) as spent:
        sample(tiny_sd(), "a cat")
    assert spent["predict"] > spent["decode"] > 0
    assert fingerprint(tiny_sd()) == before


def test_a_wrong_topic_or_too_few_repeats_are_refused() -> None:
    with pytest.raises(AskError, match="Did you mean 'generate'"):
        run_bench("genrate", Options())
    with pytest.raises(AskError, match="at least 5"):
        run_bench("generate", Options(repeats=3))
    if not torch.cuda.is_available():
        with pytest.raises(AskError, match="no CUDA"):
            run_bench("generate", Options(tier="gpu"))


def test_topics_are_the_files_beside() -> None:
    assert "generate" in topics()


def test_a_result_can_be_read_by_people_and_programs() -> None:
    rows = measure({"plain": Way(dict), "ours": Way(lambda: {"share": 0.5})}, 5, CPU)
    result = {"topic": "t", "model": {"name": "m"}, "environment": {"device_name": "cpu"}, "repeats": 5, "rows": rows}
    assert "share" in as_text(result)
    json.dumps(result, allow_nan=False)
