import pytest
import torch

from tests.folders import tiny_folder
from workbench.core.errors import AskError
from workbench.runs.bench import Options, as_text, run_bench
from workbench.runs.benches.reduce import CASES, Wishes, verdict

SMALL = {"pictures": "1", "steps": "2", "width": "16", "depth": "2", "side": "16"}


@pytest.mark.slow
def test_ways_are_measured_against_plain_in_groups() -> None:
    kept: list[dict] = []
    result = run_bench("reduce", Options(model=tiny_folder(), steps=4, more=SMALL), lambda r: kept.append(dict(r)))
    assert len(kept) == 4
    rows = {row["name"]: row["numbers"] for row in result["rows"]}
    for group in ("dit fp32", "dit bf16", "dit fp32, whole run", "default"):
        assert rows[f"{group}, plain"]["speedup"] == 1.0
    assert {"dit fp32, tome 0.75", "dit bf16, todo 2", "default, deep-cache 3"} <= set(rows)
    assert {"dit fp32, whole run, toca 3", "dit fp32, whole run, cat-prune 2"} <= set(rows)
    for name, numbers in rows.items():
        if not name.endswith("plain"):
            assert numbers["speedup"] == pytest.approx(1 / numbers["ratio"], abs=1e-3)
            assert numbers["theoretical"] > 1.0, name
    assert 0 < rows["default, deep-cache 5"]["psnr"] < 100
    assert "psnr" not in rows["dit fp32, tome 0.5"]  # random weights draw nothing to compare
    assert "dit fp32, tome 0.5" in as_text(result)
    assert result["note"].startswith("dit fp32, tome 0.5")


def test_the_verdict_names_what_was_promised_and_what_was_slower() -> None:
    speeds = {"dit fp32, plain": 1.0, "dit fp32, tome 0.5": 1.25, "dit fp32, tome 0.75": 1.1, "default, plain": 1.0,
              "default, deep-cache 3": 1.7, "default, deep-cache 5": 1.9, "dit bf16, tome 0.5": 0.8,
              "sd1-512, best stack": 2.0}  # fmt: skip
    line = verdict([{"name": name, "numbers": {"speedup": speed}} for name, speed in speeds.items()])
    assert "dit fp32, tome 0.5 1.25x of 1.2x (reached)" in line
    assert "dit fp32, tome 0.75 1.10x of 1.3x (missed)" in line
    assert "default, deep-cache 5 1.90x of 1.8x (reached)" in line
    assert "sd1-512, best stack 2.00x of 2.5x (missed)" in line
    assert "Slower than plain: dit bf16, tome 0.5." in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_its_tier_is_refused() -> None:
    with pytest.raises(AskError, match="There is no CUDA device here for --tier gpu"):
        run_bench("reduce", Options(tier="gpu"))


def test_wishes_are_refused_in_a_line() -> None:
    assert Wishes.read({"pictures": "2", "only": "sdxl-1024"}).only in CASES
    for words, said in (({"pictures": "no"}, "must be a whole number from 1"), ({"steps": "0"}, "from 1"),
                        ({"only": "sd3"}, "one of sd1-512"), ({"frames": "1"}, "has no setting")):  # fmt: skip
        with pytest.raises(AskError, match=said):
            Wishes.read(words)
