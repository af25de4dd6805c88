"""The benchmark of decoding: the two sides draw the same, rows and floors on paper, and no GPU no GPU rows."""

from typing import Any

import pytest
import torch

from workbench.core.errors import AskError
from workbench.models.var import MultiScaleVQ, VARTransformer
from workbench.models.var.bundle import from_parts
from workbench.runs.bench import Options, as_text, run_bench
from workbench.runs.benches import decode


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """One block of one head instead of six of six."""
    monkeypatch.setattr(decode, "DEPTHS", {"cpu": (1,), "gpu": (1,)})


def test_engine_and_plain_loop_draw_the_same_latent() -> None:
    bundle = decode.random_bundle(1, decode.TINY, torch.device("cpu"))
    assert torch.equal(decode.engine(bundle, 2)(), decode.plainly(bundle, 2)())


def test_a_pair_of_random_models_decodes_together() -> None:
    bundle = decode.random_bundle(2, decode.TINY, torch.device("cpu"), refiner=1)
    assert decode.engine(bundle, 1, split=3)().shape == (1, 16, 8, 8)


def test_rows_are_taken_in_turns_and_kept() -> None:
    kept: list[dict[str, Any]] = []
    result = run_bench("decode", Options(), kept.append)
    assert [row["name"] for row in result["rows"]] == [
        f"d1 x1 {name}" for name in ("plain", "engine", "plain, bfloat16", "engine, bfloat16")
    ]
    assert result["rows"][0]["numbers"]["ratio"] == 1.0
    assert all(row["numbers"]["cpu_seconds"] > 0 for row in result["rows"])
    assert kept[-1] == result
    assert "d1 x1 engine" in as_text(result)


def test_the_floor_of_d16_is_that_of_its_operations_and_bytes() -> None:
    """601 billion operations a picture with guidance, 4.3 GB of weights over ten scales: 0.9 ms, then arithmetic."""
    with torch.device("meta"):
        vq, net = MultiScaleVQ(**decode.BIG, channels=32), VARTransformer(depth=16, **decode.BIG)
    bundle = from_parts(vq, net, name="d16")
    assert decode.floor_seconds(bundle, 1) == pytest.approx(4.3e9 / decode.BYTES, rel=0.02)
    assert decode.floor_seconds(bundle, 64) == pytest.approx(64 * 601e9 / decode.OPERATIONS, rel=0.01)


def test_the_verdict_names_what_was_asked_for() -> None:
    def row(name: str, ratio: float, model: str = "d6") -> dict[str, Any]:
        return {"name": f"{model} x1 {name}", "settings": {"model": model, "pictures": 1}, "numbers": {"ratio": ratio}}

    line = decode.verdict([row("plain", 1.0), row("engine", 0.5), row("engine, bfloat16", 0.8)])
    assert "d6 x1 engine: 2.00 times as fast as the plain loop of 1.5 (reached)" in line
    assert "d6 x1 engine, bfloat16: 1.25 times as fast as the plain loop of 1.5 (missed)" in line
    assert "of 1.7 (reached)" in decode.verdict([row("code, split 8", 0.5, "d30")])


def test_settings_models_and_missing_devices_are_refused() -> None:
    with pytest.raises(AskError, match="takes no settings; 'a' was given"):
        run_bench("decode", Options(more={"a": "1"}))
    with pytest.raises(AskError, match="leave --model out"):
        run_bench("decode", Options(model="x"))
    if not torch.cuda.is_available():
        with pytest.raises(AskError, match="There is no CUDA device here"):
            run_bench("decode", Options(tier="gpu"))
