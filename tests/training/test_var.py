"""The recipe of the next-scale transformers: what is predicted from what, corrupted or not, and its shapes."""

import json
from typing import Any

import pytest
import torch

from workbench.blocks.world import World
from workbench.core.errors import AskError
from workbench.models.judge import Judge
from workbench.models.load import load
from workbench.models.var.vq import MultiScaleVQ
from workbench.training import var, var_decoder, var_evaluate, var_vq


@pytest.fixture(scope="module")
def vq() -> MultiScaleVQ:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = MultiScaleVQ(
            patch_nums=(1, 2, 4), vocab_size=16, latent_channels=4, channels=4, channel_mult=(1, 1), layers_per_block=1,
            norm_groups=2)  # fmt: skip
        torch.nn.init.normal_(model.quantize.embedding.weight)
    return model.eval().requires_grad_(False)


def latents(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 4, 4, 4, generator=torch.Generator().manual_seed(1))


def test_without_corruption_the_lesson_is_the_picture(vq: MultiScaleVQ) -> None:
    f = latents()
    tokens, inputs = var.lesson(vq, f, torch.zeros(4), torch.Generator().manual_seed(0))
    true = vq.quantise(f).tokens
    assert torch.equal(tokens, torch.cat(true, 1))
    torch.testing.assert_close(inputs, vq.inputs(true))


def test_finer_scales_are_asked_for_what_the_corrupted_ones_left_out(vq: MultiScaleVQ) -> None:
    """All codes of a row come from its only neighbour; the targets are nearest to the row's own residual."""
    f = latents(2)
    tokens, inputs = var.lesson(vq, f, torch.ones(2), torch.Generator().manual_seed(3))
    grids, f_hat = [1, 4, 16], torch.zeros_like(f)
    taken = inputs.split([4, 16], 1)
    for k, part in enumerate(tokens.split(grids, 1)):
        assert torch.equal(part, vq.nearest(vq.ask(k, f - f_hat)))
        if k == 2:
            break
        own, other = (vq.accumulate(k, f_hat, vq.embed(k, t)) for t in (part, part.flip(0)))
        swapped = torch.equal(taken[k], other[1].flatten(2).transpose(1, 2))
        assert swapped or torch.equal(taken[k], own[1].flatten(2).transpose(1, 2))
        f_hat = (other if swapped else own)[0]


def test_the_rate_is_the_share_of_codes_that_give_way(vq: MultiScaleVQ) -> None:
    f = latents(400)
    clean = var.lesson(vq, f, torch.zeros(400), torch.Generator().manual_seed(0))
    half = var.lesson(vq, f, torch.full((400,), 0.5), torch.Generator().manual_seed(0))
    assert torch.equal(clean[0][:, 0], half[0][:, 0])  # the first scale is asked for the same
    moved = (clean[1][:, :4] != half[1][:, :4]).any(-1).any(-1).float().mean()
    # half of the rows are corrupted, and one of sixteen codes or more is its neighbour's own: 0.3 to 0.5
    assert 0.25 < moved < 0.55


def test_means_by_scale_are_those_of_their_tokens() -> None:
    assert var.by_scale(torch.tensor([[1.0, 2.0, 2.0, 2.0, 6.0]]), (1, 2)) == [1.0, 3.0]


@pytest.mark.parametrize("part", sorted(var.PARTS))
def test_parts_share_the_scales_and_codes_of_the_autoencoder(part: str) -> None:
    for shape, vq in var_vq.SHAPES.items():
        with torch.device("meta"):
            model = var.build(part, shape)
        assert tuple(model.config.patch_nums) == vq["patch_nums"]
        assert model.head.out_features == vq["vocab_size"]
        assert model.word_embed.in_features == vq["latent_channels"]


def test_the_cpu_tier_is_small() -> None:
    with torch.device("meta"):
        models = [MultiScaleVQ(**var_vq.SHAPES["cpu"]), *(var.build(part) for part in var.PARTS)]
    assert 2 * sum(p.numel() for model in models for p in model.parameters()) < 1.9e6  # bytes in halves


def test_tables_and_biases_do_not_decay() -> None:
    model = var.build("refiner")
    held, rest = var.decayed(model, 0.05)
    assert held["weight_decay"] == 0.05
    assert rest["weight_decay"] == 0
    assert any(p is model.head.weight for p in held["params"])
    assert any(p is model.pos_1LC for p in rest["params"])
    assert len(held["params"]) + len(rest["params"]) == len(list(model.parameters()))


def test_what_the_decoder_is_given_are_sums_of_codes(vq: MultiScaleVQ, monkeypatch: pytest.MonkeyPatch) -> None:
    f, generator = latents(), torch.Generator().manual_seed(0)
    monkeypatch.setattr(var_decoder, "CORRUPT", 0.0)
    torch.testing.assert_close(var_decoder.states(vq, f, generator), vq.quantise(f).prefixes[-1])
    monkeypatch.setattr(var_decoder, "CORRUPT", 1.0)
    assert not torch.allclose(var_decoder.states(vq, f, generator), vq.quantise(f).prefixes[-1])


def test_only_the_decoder_learns_while_tokens_stay() -> None:
    model = var_decoder.frozen(MultiScaleVQ(**var_vq.SHAPES["cpu"]))
    learning = {name.split(".")[0] for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {"decoder", "post_quant_conv"}


def test_an_unknown_part_is_refused() -> None:
    with pytest.raises(AskError, match="part is 'critic'"):
        var.train(part="critic")


# ---------------------------------------------------------------------------------------------------- what is shipped


@pytest.fixture(scope="module")
def shipped() -> Any:
    return var_evaluate.load()


def test_the_folder_is_small_and_whole() -> None:
    files = [path for path in var.FOLDER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 1.9e6
    assert {path.parent.name for path in files if path.suffix == ".safetensors"} == {"vq", "transformer", "refiner"}


def test_its_reconstructions_keep_what_was_measured(shipped: Any) -> None:
    world = World.load()
    told = json.loads((var.FOLDER / "vq" / "training.json").read_text("utf-8"))["final"]
    found = var_vq.measure(shipped.vq, world, var_vq.subject(world, "cpu"), 16)
    # 16 scenes instead of 256, whose errors spread by about 1.5 dB
    assert found["psnr"] == pytest.approx(told["psnr"], abs=1.5)
    assert told["codes_used"] >= 0.8


def test_the_judge_names_most_of_what_it_draws(shipped: Any) -> None:
    """Eight objects, one picture each; the share over all pairs is in evaluation.json."""
    world = World.load()
    plans = var_evaluate.asked(world, var_vq.subject(world, "cpu"), 1)[::8]
    vectors = var.Vectors(torch.device("cpu"))([var.plain(plan) for plan in plans])
    pictures = var_evaluate.draw(shipped, vectors, guidance_scale=var_evaluate.GUIDANCE, top_p=var_evaluate.TOP_P)
    assert pictures.shape == (8, 3, 64, 64)
    assert var_evaluate.judged(Judge.load(var_evaluate.JUDGE), world, pictures, plans)["object"] >= 0.5
    alone = var_evaluate.draw(shipped, vectors[:1], guidance_scale=4.0, top_p=0.95)
    assert (pictures[:1] - alone).abs().max() < 0.01  # sums of eight rows round otherwise than those of one


def test_it_opens_as_the_others_do() -> None:
    bundle = load("emoji-var")
    assert bundle.family == "var"
    assert bundle.about["objects"] == list(var_vq.subject(World.load(), "cpu").objects)
    assert bundle.open("refiner").family == "var"
