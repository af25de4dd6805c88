"""A change as a value: its kinds, its strength, its file."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from workbench.core.delta import Delta
from workbench.core.errors import AskError, CheckpointMismatch

GENERATOR = torch.Generator().manual_seed(0)
WEIGHT = torch.randn(4, 6, generator=GENERATOR)
CHANGE = torch.randn(4, 6, generator=GENERATOR)
UP, DOWN = torch.randn(4, 2, generator=GENERATOR), torch.randn(2, 6, generator=GENERATOR)
KEY = "unet:mid.to_v.weight"
DELTAS = {
    "dense": Delta("weights", {KEY: CHANGE}, {"note": "x"}),
    "low rank": Delta("weights", {f"{KEY}.up": UP, f"{KEY}.down": DOWN}),
    "masks": Delta("masks", {KEY: torch.tensor([1.0, 0, 1, 1, 0, 0.5])}),
    "rows": Delta("rows", {KEY: torch.ones(2, 6), f"{KEY}.ids": torch.tensor([1, 4])}),
    "none": Delta.none(),
}
each = pytest.mark.parametrize("name", list(DELTAS))


@each
def test_a_delta_survives_its_file(name: str, tmp_path: Path) -> None:
    delta = DELTAS[name]
    delta.save(tmp_path / "d.safetensors")
    again = Delta.load(tmp_path / "d.safetensors")
    assert again.kind == delta.kind
    assert dict(again.text) == dict(delta.text)
    assert set(again.tensors) == set(delta.tensors)
    assert all(torch.equal(again.tensors[key], value) for key, value in delta.tensors.items())


@each
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_strength_nought_gives_the_same_bits_and_a_new_tensor(name: str, dtype: torch.dtype) -> None:
    weight = WEIGHT.to(dtype)
    for key in DELTAS[name].keys():  # noqa: SIM118  (keys of changed parameters, not of a mapping)
        same = DELTAS[name].changed(key, weight, 0.0)
        assert torch.equal(same, weight)
        assert same.dtype == dtype
        assert same.data_ptr() != weight.data_ptr()


def test_keys_name_each_parameter_once() -> None:
    assert [list(DELTAS[name].keys()) for name in DELTAS] == [[KEY]] * 4 + [[]]


def test_dense_and_low_rank_add_their_change() -> None:
    assert torch.equal(DELTAS["dense"].changed(KEY, WEIGHT, 0.5), WEIGHT + 0.5 * CHANGE)
    assert torch.equal(DELTAS["low rank"].changed(KEY, WEIGHT), WEIGHT + UP @ DOWN)


def test_the_sum_is_taken_wide_and_rounded_once() -> None:
    half = WEIGHT.half()
    found = DELTAS["dense"].changed(KEY, half, 0.3)
    assert found.dtype == torch.float16
    assert torch.equal(found, (half.float() + 0.3 * CHANGE).half())
    double = DELTAS["dense"].changed(KEY, WEIGHT.double(), 0.3)
    assert torch.equal(double, WEIGHT.double() + 0.3 * CHANGE.double())


def test_the_product_of_narrow_factors_is_taken_wide() -> None:
    narrow = Delta("weights", {f"{KEY}.up": UP.bfloat16(), f"{KEY}.down": DOWN.bfloat16()})
    expected = WEIGHT + UP.bfloat16().float() @ DOWN.bfloat16().float()
    assert torch.equal(narrow.changed(KEY, WEIGHT), expected)


def test_a_convolution_takes_a_low_rank_change_of_its_size() -> None:
    conv = torch.zeros(4, 2, 3, 3)
    delta = Delta("weights", {"c.up": UP, "c.down": torch.ones(2, 18)})
    assert torch.equal(delta.changed("c", conv), (UP @ torch.ones(2, 18)).reshape(4, 2, 3, 3))


def test_masks_fade_the_columns_of_the_consumer() -> None:
    mask = DELTAS["masks"].tensors[KEY]
    assert torch.equal(DELTAS["masks"].changed(KEY, WEIGHT), WEIGHT * mask)
    assert torch.equal(DELTAS["masks"].changed(KEY, WEIGHT, 0.5), WEIGHT * (0.5 + 0.5 * mask))
    conv = torch.randn(3, 6, 3, 3)
    assert torch.equal(DELTAS["masks"].changed(KEY, conv), conv * mask[None, :, None, None])


def test_rows_replace_some_and_grow_the_table() -> None:
    table = DELTAS["rows"].changed(KEY, WEIGHT)
    assert table.shape == (5, 6)
    assert torch.equal(table[[0, 2, 3]], WEIGHT[[0, 2, 3]])
    assert torch.equal(table[[1, 4]], torch.ones(2, 6))
    half = DELTAS["rows"].changed(KEY, WEIGHT, 0.5)
    torch.testing.assert_close(half[1], (WEIGHT[1] + 1) / 2)


def test_a_change_of_another_size_is_refused() -> None:
    for delta in (DELTAS["dense"], DELTAS["masks"], DELTAS["rows"]):
        with pytest.raises(AskError, match=r"unet:mid\.to_v\.weight has shape \(4, 5\); the delta"):
            delta.changed(KEY, torch.zeros(4, 5), 1.0)


def test_files_that_are_no_deltas_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"not at all")
    save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors")
    with pytest.raises(CheckpointMismatch, match=r"a\.safetensors is not a readable safetensors file"):
        Delta.load(tmp_path / "a.safetensors")
    with pytest.raises(CheckpointMismatch, match=r"b\.safetensors is not a delta of ours"):
        Delta.load(tmp_path / "b.safetensors")
    with pytest.raises(CheckpointMismatch, match=r"c\.safetensors is not a readable safetensors file"):
        Delta.load(tmp_path / "c.safetensors")
