"""The parts of the recipes that can be checked without training: losses on paper, resuming, what is true of what."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from workbench.blocks.world import Plan, World
from workbench.models.judge import Judge, JudgeConfig
from workbench.training import RECIPES, evaluate, judge, loop, scorer, unet, vae


@pytest.fixture(scope="module")
def world() -> World:
    return World.load()


def test_every_recipe_can_be_called() -> None:
    for path in RECIPES.values():
        assert callable(import_module(path).train)


def test_the_rate_warms_up_stays_and_falls() -> None:
    clock = loop.Clock(minutes=1.0)
    clock.started -= 30
    assert clock.rate(0, warm=10, tail=0.4) == pytest.approx(0.1)
    assert clock.rate(99, warm=10, tail=0.4) == 1
    clock.started -= 18
    assert clock.rate(99, warm=10, tail=0.4) == pytest.approx(0.5, abs=0.01)
    clock.started -= 60
    assert clock.rate(99, warm=10, tail=0.4) == 0


def test_time_spent_before_counts() -> None:
    assert loop.Clock(minutes=2.0, spent=60.0).part == pytest.approx(0.5, abs=0.01)


def test_a_checkpoint_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "CACHE", tmp_path)
    model, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(model.parameters())
    assert loop.resume("small", other) == {}
    loop.keep("small", model, optimiser, step=7)
    assert loop.resume("small", other, torch.optim.AdamW(other.parameters()))["step"] == 7
    assert torch.equal(model.weight, other.weight)


def test_contrast_shares_the_truth_evenly() -> None:
    """Two captions of the same two pictures: the least loss is ln 2 both ways, reached by equal logits."""
    truth = torch.ones(2, 2, dtype=torch.bool)
    assert scorer.contrast(torch.zeros(2, 2), truth).item() == pytest.approx(np.log(2))
    assert scorer.contrast(torch.tensor([[3.0, 0.0], [0.0, 3.0]]), truth).item() > np.log(2)


def test_contrast_wants_the_diagonal() -> None:
    truth = torch.eye(3, dtype=torch.bool)
    assert scorer.contrast(30 * torch.eye(3), truth).item() < 1e-6


def test_near_misses_differ_in_one_part(world: World) -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        base, *others = scorer.near(world, draw, world.plan(draw, world.tier, two=0.5))
        for other in others:
            parts = ("objects", "style", "background", "frames")
            assert sum(getattr(base, part) != getattr(other, part) for part in parts) == 1


def test_a_caption_is_true_of_what_it_describes(world: World) -> None:
    plans, said, true = scorer.scenes(world, np.random.default_rng(3), 6)
    assert true.diagonal().all()
    for row, (_, named, grounded) in enumerate(said):
        for column in np.flatnonzero(true[row].numpy()):
            mine, other = plans[row], plans[column]
            assert mine.objects == other.objects
            assert not named or mine.style == other.style
            assert not grounded or mine.background == other.background


def test_no_text_is_unknown(world: World) -> None:
    words = scorer.vocabulary(world)
    assert len(words) <= 2048
    for text in ("a cat", "Zürich 漢字 ☃", "<|endoftext|>"):
        ids = words(text).input_ids
        assert ids[0] == words.bos_token_id
        assert words.unk_token_id not in ids[1:-1] or "endoftext" in text
    assert len(words.tokenize("a cat")) == 2


def test_the_shipped_words_are_those_of_the_recipe(world: World) -> None:
    from transformers import CLIPTokenizer

    shipped = CLIPTokenizer.from_pretrained(unet.FOLDER / "tokenizer")
    text = "a twemoji emoji of a cat and a rocket on a pink background"
    assert shipped(text).input_ids == scorer.vocabulary(world)(text).input_ids


def test_the_error_of_v_is_that_of_the_formula() -> None:
    """A model that answers zero is wrong by the mean square of v, which is 1 for latents and noise of deviation 1."""

    class Silent(torch.nn.Module):
        def forward(self, x: torch.Tensor, *_: Any, return_dict: bool) -> tuple[torch.Tensor]:
            return (torch.zeros_like(x),)

    clean = torch.randn(64, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    bars = unet.schedule().alphas_cumprod
    wrong = unet.error(Silent(), clean, torch.zeros(64, 77, 4), bars, torch.Generator().manual_seed(0))
    assert wrong.item() == pytest.approx(1, abs=0.02)  # 64 * 2048 draws: a deviation of about 0.004


def test_a_lone_worker_agrees_with_itself() -> None:
    model = torch.nn.Linear(2, 2)
    before = model.weight.clone()
    assert loop.agree(model, [3.0]) == [3.0]
    assert torch.equal(model.weight, before)


def test_the_average_follows_and_forgets() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    average = unet.Average(model, most=0.5)
    torch.nn.init.ones_(model.weight)
    for _ in range(40):
        average.update(model)
    assert average.weights["weight"].item() == pytest.approx(1, abs=1e-6)


def test_the_pool_of_few_begins_that_of_many(world: World) -> None:
    assert unet.planned(world, 7, 12)[:5] == unet.planned(world, 7, 5)


def test_the_autoencoder_has_the_shapes_promised() -> None:
    model = vae.build().eval()
    with torch.no_grad():
        latent = model.encode(torch.zeros(1, 3, 128, 128)).latent_dist
        assert latent.mean.shape == (1, 8, 16, 16)
        assert latent.std.mean().item() == pytest.approx(vae.NOISE, rel=1e-3)
        assert model.decode(latent.mean).sample.shape == (1, 3, 128, 128)


def test_the_judges_truth_is_where_the_objects_are(world: World) -> None:
    plan = Plan(("cat face", "pizza"), "noto", "white", ((0.0, 0.25, 0.5), (0.5, 0.25, 0.5)))
    _, _, covers = world.draw(plan)
    cells, objects, styles = judge.truth(world, [plan], [covers])
    cat, pizza = (world.concepts.index(o) for o in plan.objects)
    assert cells[0, 4, 1] == cat
    assert cells[0, 4, 6] == pizza
    assert (cells[0, :2] == len(world.concepts)).all()
    assert objects[0, [cat, pizza]].tolist() == [0.5, 0.5]
    assert styles.tolist() == [world.styles.index("noto")]


def test_a_judge_is_read_back_as_written(tmp_path: Path) -> None:
    model = Judge(JudgeConfig(("cat", "dog"), ("flat",), width=64)).eval()
    model.save(tmp_path)
    again = Judge.load(tmp_path)
    pictures = torch.rand(2, 3, 128, 128) * 2 - 1
    with torch.no_grad():
        mine, other = model(pictures), again(pictures)
    assert mine.cells.shape == (2, 3, 8, 8)
    assert mine.objects.shape == (2, 3)
    assert mine.styles.shape == (2, 2)
    assert torch.allclose(mine.cells, other.cells, atol=0.02)  # fp16 on disk


def test_the_fixed_prompts_are_those_of_the_seed(world: World) -> None:
    rows = evaluate.fixed(world)
    assert rows == evaluate.prompts(world)
    assert len(rows) == 128
    seen = [r for r in rows if r["kind"] == "seen"]
    assert {r["objects"][0] for r in seen} == set(world.tier)
    assert all(world.seen(r["objects"][0], r["style"]) for r in seen)
    assert not any(world.seen(r["objects"][0], r["style"]) for r in rows if r["kind"] == "held-out pair")


def alike(rank: int, workers: int, settings: dict[str, Any]) -> None:
    """Be worker `rank`, whose weights are all its rank, and write down what is agreed."""
    model = torch.nn.Linear(2, 2).to(memory_format=torch.contiguous_format)
    torch.nn.init.constant_(model.weight, rank)
    total = loop.agree(model, [1.0 + rank])
    (Path(settings["out"]) / str(rank)).write_text(json.dumps([total, model.weight.tolist(), workers]))


def test_workers_leave_with_the_mean_of_their_weights_and_the_sum_of_their_numbers(tmp_path: Path) -> None:
    loop.together(alike, 2, 1, {"out": str(tmp_path)})
    for rank in range(2):
        assert json.loads((tmp_path / str(rank)).read_text()) == [[3.0], [[0.5, 0.5], [0.5, 0.5]], 2]
