"""Every format means what its equation says, and every form of file finds its places in models of real size."""

from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from tests.loras import FORMATS, first_names, full, kohya_lora, real_size, saved
from tests.tiny import tiny_sd, tiny_sdxl
from workbench.blocks.adapter_formats import Misfit, change, learned, rank_of, slot
from workbench.blocks.adapters import Adapter, look_at, read_adapter


def changes(adapter: Adapter) -> dict[str, torch.Tensor]:
    found = {key: adapter.low_rank.dense(key).double() for key in adapter.low_rank}
    return found | {key: value.double().flatten(1 if value.ndim > 1 else 0) for key, value in adapter.dense.items()}


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl], ids=["sd", "sdxl"])
@pytest.mark.parametrize("form", FORMATS)
def test_a_file_means_what_its_equation_says(form: str, make: object, tmp_path: Path) -> None:
    bundle = make()  # type: ignore[operator]
    tensors, wanted = FORMATS[form](bundle)
    adapter = read_adapter(bundle, saved(tensors, tmp_path / "some.safetensors"))
    found = changes(adapter)
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        assert_close(found[key], value, rtol=1e-5, atol=1e-6, msg=key)
    assert adapter.report.found == 1.0


@pytest.mark.parametrize("kind", ["sd1", "sdxl"])
@pytest.mark.parametrize("form", [form for form in FORMATS if form not in ("full", "ia3", "dora")])
def test_a_file_for_a_model_of_real_size_is_found_whole(form: str, kind: str, tmp_path: Path) -> None:
    bundle = real_size(kind)
    tensors, _ = FORMATS[form](bundle, 1, expect=False)
    report = look_at(bundle, saved(tensors, tmp_path / "some.safetensors")).report
    assert report.found == 1.0
    assert report.refusal == ""
    assert len(report.lines) > (100 if kind == "sd1" else 400)


def test_first_generation_names_for_sdxl_are_found_whole(tmp_path: Path) -> None:
    bundle = real_size("sdxl")
    tensors, _ = kohya_lora(bundle, 1, expect=False)
    renamed = dict(first_names(bundle, tensors))
    assert sum("input_blocks" in name for name in renamed) > 500
    report = look_at(bundle, saved(renamed, tmp_path / "some.safetensors")).report
    assert report.found == 1.0
    assert report.count("renamed") > 700


@pytest.mark.parametrize("form", ["kohya", "diffusers", "lokr"])
def test_a_file_for_another_architecture_is_told_apart(form: str, tmp_path: Path) -> None:
    tensors, _ = FORMATS[form](real_size("sd1"), 1, expect=False)
    report = look_at(real_size("sdxl"), saved(tensors, tmp_path / "some.safetensors")).report
    assert report.refusal
    assert "another architecture" in report.refusal


def test_slots_are_told_by_the_end_of_a_name() -> None:
    told = {
        "a.b.lora_A.weight": ("a.b", "down"), "a.b.lora_B.default.weight": ("a.b", "up"),
        "lora_unet_x.lora_mid.weight": ("lora_unet_x", "mid"), "x.lokr_w2_b": ("x", "kw2_b"),
        "text_encoder.l.self_attn.to_q_lora.down.weight": ("text_encoder.l.self_attn.q_proj", "down"),
        "a.attn1.processor.to_out_lora.up.weight": ("a.attn1.to_out.0", "up"), "x.dora_scale": ("x", "dora"),
        "x.lora_linear_layer.up.weight": ("x", "up"), "x.diff_b": ("x", "diff_b"), "emb_params": None,
    }  # fmt: skip
    assert {name: slot(name) for name in told} == told


@pytest.mark.parametrize(
    ("group", "word"),
    [
        ({"up": torch.ones(3, 2), "down": torch.ones(1, 4)}, "rank 2"),
        ({"up": torch.ones(3, 2), "down": torch.ones(2, 5)}, "3x5"),
        ({"up": torch.ones(3, 0), "down": torch.ones(0, 4)}, "rank 0"),
        ({"up": torch.ones(3, 2)}, "only up"),
        ({"diff": torch.ones(3, 5)}, "3x5"),
        ({"w1_a": torch.ones(3, 1), "w1_b": torch.ones(1, 4), "w2_a": torch.ones(3, 1), "w2_b": torch.ones(2, 4)},
         "factors"),
        ({"kw1": torch.ones(2, 2), "kw2": torch.ones(2, 2)}, "4x4"),
        ({"weight": torch.ones(7), "on_input": torch.tensor(True)}, "7 numbers"),
        ({"up": torch.ones(3, 1), "down": torch.ones(1, 4), "magnitude": torch.ones(9)}, "9 numbers"),
    ],
)  # fmt: skip
def test_tensors_of_another_shape_are_a_misfit(group: dict[str, torch.Tensor], word: str) -> None:
    with pytest.raises(Misfit, match=word):
        change(group, (3, 4), 1.0, lambda: torch.ones(3, 4))


def meta(*shape: int) -> torch.Tensor:
    """Factors that take no memory here, and more than there is when they are multiplied."""
    return torch.ones(1).expand(shape)


@pytest.mark.parametrize(
    "group",
    [
        {"kw1": torch.ones(1, 1), "kw2_a": meta(10**6, 1), "kw2_b": meta(1, 10**6)},
        {"kw1_a": meta(10**6, 1), "kw1_b": meta(1, 10**6), "kw2": torch.ones(1, 1)},
        {"kw1": torch.ones(1, 1), "kw2_a": meta(1, 10**6), "kw2_b": meta(1, 10**6), "kt2": torch.ones(1, 1, 3, 3)},
        {"t1": meta(1, 1, 10**6, 10**6), "t2": meta(1, 1, 10**6, 10**6), "w1_a": torch.ones(1, 3),
         "w1_b": torch.ones(1, 4), "w2_a": torch.ones(1, 3), "w2_b": torch.ones(1, 4)},
        {"up": torch.ones(3, 10), "down": meta(1, 10**6), "mid": meta(10, 1, 10**3, 10**3)},
    ],
)  # fmt: skip
def test_small_factors_of_a_huge_product_are_refused_before_it_is_made(group: dict[str, torch.Tensor]) -> None:
    with pytest.raises(Misfit, match="4 have room"):
        change(group, (3, 4), 1.0, lambda: torch.ones(3, 4))


def test_a_whole_parameter_becomes_its_difference() -> None:
    made = change({"weight": torch.full((2, 3), 5.0)}, (2, 3), 1.0, lambda: torch.full((2, 3), 2.0))
    assert made.dense is not None
    assert made.dense.tolist() == [[3.0] * 3] * 2


def test_a_bias_beside_factors_is_scaled_with_them() -> None:
    made = change({"up": torch.ones(3, 1), "down": torch.ones(1, 4), "up_b": torch.ones(3)}, (3, 4), 2.5, torch.Tensor)
    assert made.bias is not None
    assert made.bias.tolist() == [2.5] * 3


def test_a_dense_hadamard_product_equals_its_factors() -> None:
    """Of rank 4 it is wider than the matrix, of rank 1 narrower; both are the same equation."""
    a, b, c, d = (torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i, shape in
                  enumerate([(6, 3), (3, 5), (6, 3), (3, 5)]))  # fmt: skip
    group = {"w1_a": a, "w1_b": b, "w2_a": c, "w2_b": d}
    wide = change(group, (6, 5), 2.0, lambda: torch.zeros(6, 5))
    assert wide.pair is None
    assert_close(wide.dense, 2 * (a @ b) * (c @ d))
    thin = change(
        {k: v[:, :1] if "a" in k else v[:1] for k, v in group.items()}, (6, 5), 2.0, lambda: torch.zeros(6, 5)
    )
    assert thin.pair is not None
    assert_close(thin.pair[0] @ thin.pair[1], 2 * (a[:, :1] @ b[:1]) * (c[:, :1] @ d[:1]))


def test_cores_of_tucker_forms_are_contracted() -> None:
    draw = torch.Generator().manual_seed(1)
    core, up, down = (torch.randn(s, generator=draw) for s in ((2, 3, 3, 3), (2, 4), (3, 5)))
    group = {"t1": core, "w1_a": up, "w1_b": down, "t2": core, "w2_a": up, "w2_b": down}
    made = change(group, (4, 5, 3, 3), 1.0, lambda: torch.zeros(4, 5, 3, 3))
    slow = torch.zeros(4, 5, 3, 3)
    for o in range(4):
        for c in range(5):
            slow[o, c] = sum(core[i, j] * up[i, o] * down[j, c] for i in range(2) for j in range(3))  # type: ignore[assignment]
    assert_close(made.dense, slow * slow)


def test_the_rank_is_read_from_the_factors() -> None:
    assert rank_of({"down": torch.ones(5, 2)}) == 5
    assert rank_of({"kw1": torch.ones(2, 2), "kw2": torch.ones(2, 2)}) == 0


def test_learned_tokens_are_told_by_their_only_name() -> None:
    parts = ["text", "text2"]
    row = torch.ones(2, 8)
    assert learned(parts, {"<toy>": row})[0] == "<toy>"
    assert learned(parts, {"emb_params": row})[0] == ""
    assert set(learned(parts, {"clip_l": row, "clip_g": row})[1]) == {"text", "text2"}
    assert learned(parts, {"x.diff": row}) == ("", {})
    assert learned(parts, {"a": row, "b": row}) == ("", {})


def test_a_full_file_of_real_size_is_found_by_some_of_its_places(tmp_path: Path) -> None:
    tensors, _ = full(tiny_sd())
    few = dict(list(tensors.items())[:9])
    assert read_adapter(tiny_sd(), saved(few, tmp_path / "few.safetensors")).report.found == 1.0
