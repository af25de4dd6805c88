"""The GPU tier's parts on paper, and the whole of it on a CPU: tiny shapes, few objects, a few steps, resumed."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from workbench.blocks.world import World
from workbench.cli import main
from workbench.core.errors import AskError, CheckpointMismatch, MissingPart
from workbench.models.judge import Judge
from workbench.training import (
    gpu,
    gpu_evaluate,
    gpu_judge,
    gpu_loop,
    gpu_scorer,
    gpu_unet,
    gpu_vae,
    judge,
    loop,
    scorer,
    unet,
)  # fmt: skip
from workbench.training.feed import Batch
from workbench.training.loop import diffusers
from workbench.training.stage import coded

SMALL: dict[str, Any] = {"objects": 8, "workers": 0, "compiled": False, "most": 2}
TINY: dict[str, Any] = {
    "vae": {"batch": 2, "widths": [8, 8, 16], "minutes": 1e-4},
    "scorer": {"batch": 12, "minutes": 2e-4, "text": 1e-4},
    "judge": {"batch": 8, "width": 64, "minutes": 1e-4},
    "unet": {"batch": 4, "again": 2, "ring": 8, "widths": [32, 32, 32], "minutes": 1},
    "evaluate": {"steps": 1, "count": 4},
}


@pytest.fixture(scope="module")
def world() -> World:
    return gpu_loop.whole(World.load())


def test_the_whole_world_is_the_tier(world: World) -> None:
    assert len(world.tier) == 718
    assert not set(world.tier) & set(world.split["held_out_objects"])
    few = gpu_loop.whole(World.load(), 10)
    assert len(few.objects) == 10
    assert set(few.tier) | set(few.split["held_out_objects"]) == set(few.concepts)


def test_a_caption_is_true_where_the_cpu_tier_says_so(world: World) -> None:
    plans, said, true = scorer.scenes(world, np.random.default_rng(3), 12)
    told = torch.tensor([[named, grounded] for _, named, grounded in said])
    none = torch.zeros(0)
    batch = Batch(coded(world, plans), none, none, told)
    assert torch.equal(gpu_scorer.answers(batch), true)
    truth = scorer.Truth(world)
    assert torch.equal(gpu_scorer.parts(batch, len(truth.objects)), truth.codes(plans))


def test_the_judges_truth_is_that_of_the_cpu_tier(world: World) -> None:
    plans = [world.plan(np.random.default_rng(i), two=0.5, held_out=True) for i in range(12)]
    covers = [world.draw(plan)[2] for plan in plans]
    shown = torch.stack([torch.from_numpy(np.stack([*c, np.zeros_like(c[0])][:2])) for c in covers])
    empty = torch.tensor([i == 5 for i in range(12)])
    mine = gpu_judge.truth(coded(world, plans), shown, (len(world.concepts), len(world.styles)), empty)
    theirs = judge.truth(world, plans, [[] if i == 5 else c for i, c in enumerate(covers)])
    for one, other in zip(mine, theirs, strict=True):
        assert torch.equal(one, other)


def test_miscalibration_is_the_gap_of_confidence_and_frequency() -> None:
    """Two answers at 3/4, one of them right: a gap of 1/4; sure and right: none."""
    logits = torch.tensor([[3.0, 1.0], [3.0, 1.0]]).log()
    assert gpu_judge.miscalibration(logits, torch.tensor([0, 1])) == pytest.approx(0.25)
    assert gpu_judge.miscalibration(torch.tensor([[99.0, 0.0]]), torch.tensor([0])) == pytest.approx(0)


def test_min_snr_is_the_weight_of_paper() -> None:
    """At SNR 4, gamma 5: 4/5; at SNR 9: 5/10; at SNR 1/4: (1/4) / (5/4)."""
    bars = torch.tensor([0.8, 0.9, 0.2])
    assert torch.allclose(gpu_unet.weight(bars, 5.0), torch.tensor([0.8, 0.5, 0.2]))
    assert torch.equal(gpu_unet.weight(bars, 0.0), torch.ones(3))


def test_a_silent_model_misses_v_by_its_power() -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(64, 4, 16, 16, generator=generator) for _ in range(2))
    bars = unet.schedule().alphas_cumprod[torch.arange(0, 960, 15)]
    assert gpu_unet.error(torch.zeros_like, clean, noise, bars, 0.0).item() == pytest.approx(1, abs=0.02)
    expected = gpu_unet.weight(bars, 5.0).mean().item()
    assert gpu_unet.error(torch.zeros_like, clean, noise, bars, 5.0).item() == pytest.approx(expected, rel=0.02)


def test_a_model_that_knows_v_misses_nothing() -> None:
    clean, noise, bar = torch.randn(3, 4, 8, 8), torch.randn(3, 4, 8, 8), torch.full((3,), 0.3)
    true = 0.3**0.5 * noise - 0.7**0.5 * clean
    assert gpu_unet.error(lambda _: true, clean, noise, bar, 0.0).item() == pytest.approx(0, abs=1e-10)


def test_the_nearest_noise_is_taken_row_by_row() -> None:
    clean = torch.tensor([0.0, 10.0]).view(2, 1, 1, 1)
    noises = torch.tensor([[5.0, 4.0], [-1.0, 2.0], [3.0, 9.0]]).view(3, 2, 1, 1, 1)
    assert gpu_unet.nearest(clean, noises).flatten().tolist() == [-1.0, 9.0]
    assert torch.equal(gpu_unet.nearest(clean, noises[:1]), noises[0])


def test_the_ring_forgets_the_oldest() -> None:
    ring = gpu_unet.Ring(3)
    for number in range(4):
        ring.put(torch.full((1, 1, 1, 1), float(number)), torch.full((1, 2, 1), float(-number)))
    latents, states = ring.take(torch.arange(ring.held))
    assert latents.flatten().tolist() == [3, 1, 2]
    assert states[:, 0, 0].tolist() == [-3, -1, -2]


def test_the_shapes_fit_the_budget() -> None:
    """Denoiser, autoencoder, towers (the text one twice) and judge leave 8 MB of 45 MiB for what is built on them."""
    from transformers import CLIPTokenizer

    from workbench.models.judge import JudgeConfig

    world = World.load()
    with torch.device("meta"):
        clip = scorer.build(CLIPTokenizer.from_pretrained(scorer.FOLDER))
        judged = Judge(JudgeConfig(world.concepts, world.styles))
        parts = [gpu_unet.build(), clip, clip.text_model, judged]
    parts.append(gpu_vae.build())
    size = 2 * sum(p.numel() for part in parts for p in part.parameters())
    assert size <= 45 * 2**20 - 8 * 10**6


def test_latents_are_a_quarter_of_the_side() -> None:
    model = gpu_vae.build((8, 8, 16)).eval()
    with torch.no_grad():
        made = model.encode(torch.zeros(1, 3, 128, 128)).latent_dist
        assert made.mean.shape == (1, 4, 32, 32)
        assert made.std.mean().item() == pytest.approx(0.05, rel=1e-3)
        assert model.decode(made.mean).sample.shape == (1, 3, 128, 128)


def test_pieces_are_small_and_reassemble_bit_for_bit(tmp_path: Path) -> None:
    folder, out, again = tmp_path / "models", tmp_path / "out", tmp_path / "again"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / "weights.safetensors").write_bytes(np.random.default_rng(0).bytes(70_000))
    (folder / "b.json").write_text("{}")
    out.mkdir()
    (out / "models.tar.07-of-08").write_bytes(b"of an earlier call")
    names = gpu_loop.pack(folder, out, most=30_000)
    assert sorted(p.name for p in out.iterdir()) == names
    assert all((out / name).stat().st_size <= 30_000 for name in names)
    assert gpu_loop.PIECE < 16 * 2**20
    assert sorted(gpu_loop.unpack(out, again)) == ["a/weights.safetensors", "b.json"]
    for path in ("a/weights.safetensors", "b.json"):
        assert (again / path).read_bytes() == (folder / path).read_bytes()
    (out / names[1]).unlink()
    with pytest.raises(MissingPart, match=r"holds \d of \d pieces"):
        gpu_loop.unpack(out, again)


def test_models_of_another_tier_are_not_gone_on_from(tmp_path: Path) -> None:
    given = tmp_path / "given"
    parts = {"emoji-judge": "judge", "emoji-scorer": "gpu-scorer, vision"}
    parts |= {"emoji-unet/vae": "gpu-vae", "emoji-unet/unet": "unet"}
    for part, recipe in parts.items():
        (given / part).mkdir(parents=True)
        (given / part / "training.json").write_text(json.dumps({"recipe": recipe}))
    gpu_loop.take(given, tmp_path / "kept")
    kept = [p.parent.relative_to(tmp_path / "kept").as_posix() for p in (tmp_path / "kept").rglob("*.json")]
    assert sorted(kept) == ["emoji-scorer", "emoji-unet/vae"]
    with pytest.raises(MissingPart, match="neither pieces nor"):
        gpu_loop.take(tmp_path / "nowhere", tmp_path / "kept")


def test_the_fixed_prompts_are_those_of_the_seed(world: World) -> None:
    asked = gpu_evaluate.fixed(world)
    rows = asked["prompts"]
    assert rows == gpu_evaluate.prompts(world)
    assert asked["sheet"] == gpu_evaluate.grid(world)
    assert len(rows) == 512
    assert len({row["seed"] for row in rows + asked["sheet"]}) == 512 + 64
    pairs = {tuple(pair) for pair in world.split["held_out_pairs"]}
    for row in rows:
        seen = all(world.seen(label, row["style"]) for label in row["objects"])
        assert seen == (row["kind"] != "held-out pair")
        assert seen or (row["objects"][0], row["style"]) in pairs
        if row["kind"] == "synonym":
            owners = [t.label for t in world.objects for word in t.synonyms if f" a {word} on " in row["prompt"]]
            assert owners == row["objects"]


def test_the_sheet_is_eight_objects_in_eight_looks(world: World) -> None:
    rows = gpu_evaluate.grid(world)
    assert len({row["objects"][0] for row in rows}) == 8
    assert {row["background"] for row in rows} == set(world.backgrounds)
    assert len({row["style"] for row in rows}) == 6
    looks = [(row["style"], row["background"]) for row in rows]
    assert looks[:8] * 8 == looks


def test_order_is_asked_only_of_what_is_there(world: World) -> None:
    """A judge of true drawings' truth: both there and in order; swapped, both there and out of order."""
    plan = world.plan(np.random.default_rng(1), objects=["pizza", "rocket"], two=1.0)
    picture, _, covers = world.draw(plan)
    cells, objects, styles = judge.truth(world, [plan], [covers])
    order = list(world.concepts)

    class Sure(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.config = type("Config", (), {"objects": world.concepts, "styles": world.styles})()
            self.weight = torch.nn.Parameter(torch.zeros(1))

        def forward(self, _: torch.Tensor) -> Any:
            grid = torch.nn.functional.one_hot(cells, len(order) + 1).permute(0, 3, 1, 2)
            manner = torch.nn.functional.one_hot(styles, len(world.styles) + 1)
            return type("Seen", (), {"cells": 30.0 * grid, "objects": 30 * objects, "styles": 30.0 * manner})()

    def ask(*labels: str) -> dict[str, bool]:
        asked = gpu_evaluate.row("two", list(labels), list(labels), (plan.style, plan.background), 0)
        return gpu_evaluate.verdicts(world, Sure(), picture[None], [asked])[0]  # type: ignore[arg-type]

    right = {"both": True, "order": True, "style": True, "background": True}
    assert ask(*plan.objects) == right
    assert ask(*plan.objects[::-1]) == {**right, "order": False}
    assert ask("pizza", "house") == {"both": False, "style": True, "background": True}


def test_a_border_has_the_colour_it_was_given(world: World) -> None:
    for seed, name in enumerate(world.backgrounds):
        plan = replace(world.plan(np.random.default_rng(seed), two=0.0), background=name)
        assert gpu_evaluate.ground(world, world.draw(plan)[0]) == name


def test_a_recipe_takes_its_own_settings_and_the_rigs() -> None:
    import inspect

    known = set(inspect.signature(gpu_vae.train).parameters)
    assert {"minutes", "batch", "widths", "device", "given", "out", "limit", "objects", "workers", "most"} <= known
    with pytest.raises(TypeError, match="unexpected"):
        gpu_vae.train(device="cpu", objects=8, colour="red")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is there")
def test_without_a_gpu_the_recipes_say_so() -> None:
    with pytest.raises(AskError, match="device=cuda"):
        gpu_loop.Kit(gpu_loop.Rig())


def test_a_course_that_diverges_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CACHE", tmp_path)
    kit = gpu_loop.Kit(gpu_loop.Rig(device="cpu", objects=8))
    model = torch.nn.Linear(1, 1)
    with pytest.raises(CheckpointMismatch, match="diverged at step 1"):
        gpu_loop.learn(kit, gpu_loop.Course(1.0, 1e-3), model, lambda: model.weight.sum() * float("nan"), batch=1,
                       before={}, facts={"recipe": "trial"}, feed=None)  # type: ignore[arg-type]  # fmt: skip


def test_the_average_is_left_in_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    average = gpu_loop.Average(model, most=0.5)
    torch.nn.init.ones_(model.weight)
    average.update()  # memory 1/10: nine tenths of the way
    average.settle()
    assert model.weight.item() == pytest.approx(0.9)


def _weights(path: Path) -> dict[str, torch.Tensor]:
    """Read weights that are one file or, where they share a part with another model, shards."""
    files = [path] if path.exists() else sorted(path.parent.glob(f"{path.stem}-*{path.suffix}"))
    return {name: value for file in files for name, value in load_file(file).items()}


GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, GPU])])
def test_two_calls_train_everything_and_the_second_goes_on(
    device: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "CACHE", tmp_path / "cache")
    one, two, models = tmp_path / "one", tmp_path / "two", tmp_path / "models"
    first = gpu.train(device=device, out=str(one), **SMALL, **TINY)
    assert [first[part]["step"] for part in gpu.PARTS] == [2, 2, 2, 2]
    assert {path.name for path in one.iterdir()} == {*first["pieces"], "evaluation.json", "sheet.png"}
    assert len(list(one.iterdir())) <= 8

    # at a rate of 0 the second call hands on the averaged weights as they were given, bit for bit
    still = {**TINY, "unet": {**TINY["unet"], "lr": 0.0, "near": 3, "snr": 5.0}}
    (tmp_path / "cache" / "train").rename(tmp_path / "elsewhere")  # another machine has only the pieces
    second = gpu.train(device=device, given=str(one), out=str(two), last=True, **SMALL, **still)
    assert set(second) == {"unet", "evaluation", "pieces"}
    assert (second["unet"]["step"], second["unet"]["samples"]) == (4, 16)
    assert gpu_loop.install(str(two), str(models))["stale"] == []
    gpu_loop.unpack(one, tmp_path / "before")
    for path in sorted((tmp_path / "before").rglob("*.safetensors")):
        given, kept = load_file(path), _weights(models / path.relative_to(tmp_path / "before"))
        assert all(torch.equal(given[name], kept[name]) for name in given), path

    pipe = diffusers.StableDiffusionPipeline.from_pretrained(models / "emoji-unet")
    assert pipe.unet.config.in_channels == pipe.vae.config.latent_channels == 4
    tower = load_file(models / "emoji-unet/text_encoder/model.safetensors")
    towers = _weights(models / "emoji-scorer/model.safetensors")
    assert all(torch.equal(weight, towers[name]) for name, weight in tower.items())
    assert len(Judge.load(models / "emoji-judge").config.objects) == 8
    for notes in models.rglob("training*.json"):
        facts = json.loads(notes.read_text("utf-8"))
        assert {"recipe", "device", "torch", "final", "curve", "accelerator"} <= set(facts)


def test_one_part_can_be_trained_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loop, "CACHE", tmp_path)
    words = ["device=cpu", "objects=8", "workers=0", "compiled=false", "most=1", "batch=2", "widths=[8,8,16]"]
    assert main(["train", "gpu-vae", *words, f"out={tmp_path / 'out'}"]) == 0
    assert (tmp_path / "out" / "models.tar.00-of-01").is_file()
    assert main(["train", "gpu-install", f"given={tmp_path / 'out'}", f"out={tmp_path / 'models'}"]) == 0
    assert (tmp_path / "models" / "emoji-unet" / "vae" / "config.json").is_file()
    capsys.readouterr()
