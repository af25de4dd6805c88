"""ComPEFT: three values an adapter, against loops, the ratio of the paper, and what raw factors lose."""

import pytest
import torch
from torch.testing import assert_close

from tests.methods.compose.layouts import fitted, random_factors
from workbench.methods.compose.compeft import Compeft, compressed, smaller
from workbench.ops.low_rank import LowRank


def adapter() -> LowRank:
    return LowRank({"b": random_factors(2), "a": random_factors(1, 6, 5, 2)})


@pytest.mark.parametrize(("kept", "scale"), [(0.05, 1.0), (0.2, 2.0), (1.0, 0.5)])
def test_an_adapter_has_three_values_and_equals_loops_in_float64(kept: float, scale: float) -> None:
    made = compressed(adapter(), kept, scale)
    flat = [v for key in ("a", "b") for part in adapter().factors[key] for v in part.flatten().tolist()]
    mean = sum(flat) / len(flat)
    spread = (sum((v - mean) ** 2 for v in flat) / (len(flat) - 1)) ** 0.5
    count = int(kept * len(flat))
    least = sorted((abs(v) for v in flat), reverse=True)[count - 1]
    slow = [scale * spread * ((v > 0) - (v < 0)) if abs(v) >= least else 0.0 for v in flat]
    fast = [v for key in ("a", "b") for part in made.factors[key] for v in part.flatten().tolist()]
    assert_close(torch.tensor(fast), torch.tensor(slow))
    assert len({round(abs(v), 9) for v in fast}) <= 2


def test_the_ratio_is_the_papers() -> None:
    assert [round(smaller(kept)) for kept in (0.05, 0.2, 0.5)] == [48, 17, 11]
    assert smaller(1.0) == 16


def test_raw_factors_of_unlike_size_lose_the_adapter_and_singular_ones_do_not() -> None:
    sizes = {}
    for gauge in ("svd", "raw"):
        delta = fitted(Compeft(adapters=("random:1",), gauge=gauge))
        sizes[gauge] = sum(float(delta.change(key).square().sum()) for key in delta.keys())  # noqa: SIM118
    assert sizes["raw"] == 0.0  # a random adapter's up is far smaller than its down
    assert sizes["svd"] > 1.0


def test_the_merge_is_the_weighted_sum_of_the_compressed() -> None:
    whole = fitted(Compeft(adapters=("random:1", "random:2"), weights=(0.5, 2.0)))
    one, two = (fitted(Compeft(adapters=(name,))) for name in ("random:1", "random:2"))
    for key in whole.keys():  # noqa: SIM118
        assert_close(whole.change(key), 0.5 * one.change(key) + 2.0 * two.change(key), atol=1e-5, rtol=1e-5)
    assert whole.text["ratio"] == f"{smaller(0.2):.1f}"
