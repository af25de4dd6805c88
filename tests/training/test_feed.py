"""What is fed: scenes of the right kind, captioned as the world captions them, the same with and without workers."""

from typing import Any

import numpy as np
import pytest
import torch
from transformers import CLIPTokenizer

from workbench.blocks.world import World
from workbench.training import feed, scorer
from workbench.training.gpu_loop import whole
from workbench.training.stage import coded


@pytest.fixture(scope="module")
def world() -> World:
    return whole(World.load(), 40)


@pytest.fixture(scope="module")
def words() -> Any:
    return CLIPTokenizer.from_pretrained(scorer.FOLDER)


def test_a_batch_follows_from_the_seed_and_its_number(world: World, words: Any) -> None:
    """Written a second time: plans, then captions, all from one generator."""
    row = feed.Scenes(world, feed.steady, 5, words=words, full=True, seed=3)[7]
    draw = np.random.default_rng((3, 7))
    plans = feed.steady(world, draw, 5)
    said = [world.say(draw, p.objects, p.style, p.background) for p in plans]
    for name, value in coded(world, plans)._asdict().items():
        assert torch.equal(row[name], value)
    for ids, full, told, plan, (text, named, grounded) in zip(
        row["ids"], row["full"], row["told"], plans, said, strict=True
    ):
        assert ids.tolist() == words(text, padding="max_length", max_length=77).input_ids
        assert full.tolist() == words(feed.sentence(plan), padding="max_length", max_length=77).input_ids
        assert told.tolist() == [named, grounded]
    assert row["ids"].shape == (5, 77)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_feed_is_the_batches_in_order_however_many_workers(world: World, words: Any, workers: int) -> None:
    scenes = feed.Scenes(world, feed.plain, 3, words=words, seed=1)
    made = feed.Feed(scenes, torch.device("cpu"), workers, start=4)
    for index in (4, 5, 6):
        batch = next(made)
        assert torch.equal(batch.ids, scenes[index]["ids"])
        assert torch.equal(batch.codes.boxes, scenes[index]["boxes"])
    assert made.waited > 0


def test_the_global_generator_is_left_alone(world: World) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    next(feed.Feed(feed.Scenes(world, feed.plain, 2), torch.device("cpu")))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("choose", [feed.plain, feed.steady, feed.close])
def test_the_generator_and_the_scorer_never_see_what_is_held_out(choose: feed.Choose) -> None:
    world = whole(World.load())
    plans = choose(world, np.random.default_rng(0), 60)
    assert len(plans) == 60
    assert all(world.seen(label, plan.style) for plan in plans for label in plan.objects)


def test_the_judge_sees_everything() -> None:
    plans = feed.everything(whole(World.load()), np.random.default_rng(0), 300)
    world = World.load()
    assert any(plan.style == "emojione" for plan in plans)
    assert any(not world.seen(label, "flat") for plan in plans for label in plan.objects)


def test_near_misses_come_in_rows(world: World) -> None:
    base, second, *_ = feed.close(world, np.random.default_rng(2), 8)
    assert (base.objects, base.frames, base.style) == (second.objects, second.frames, second.style)
    assert base.background != second.background
