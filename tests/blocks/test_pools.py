"""Where a fit learns: states on walks and of pictures, what was said there, and how they are drawn."""

from collections import Counter

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import tiny_sd, tiny_sdxl
from workbench.blocks.denoise import Course, denoise
from workbench.blocks.pools import Kernel, Pictures, Room, Walks, joined, precision, progress, uniform
from workbench.core.ask import Ask
from workbench.core.bundle import Condition
from workbench.core.errors import Stopped
from workbench.core.patch import Patch
from workbench.core.tape import Step
from workbench.ops.noise import row_generator

LESSONS = ({"concept": "a cat", "empty": None}, {"kept": "the dog"})


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_noising_and_spaces_are_the_textbooks_in_float64(kind: str) -> None:
    kernel = Kernel(torch.linspace(0.99, 0.01, 10), kind)
    draw = torch.Generator().manual_seed(0)
    x0, n, made = (torch.randn(3, 2, 4, 4, generator=draw, dtype=torch.float64) for _ in range(3))
    t = torch.tensor([0, 5, 9])
    x, truth = kernel.noised(x0, n, t)
    gaps = {space: kernel.factor(space, t, x) * (made - truth) for space in ("prediction", "epsilon", "x0")}
    for row, bar in enumerate(kernel.bars[t].double()):
        a, s = bar**0.5, (1 - bar) ** 0.5
        assert_close(x[row], a * x0[row] + s * n[row])
        said = made[row]
        pairs = {
            "epsilon": (said, (x[row] - s * said) / a),
            "v_prediction": (a * said + s * x[row], a * x[row] - s * said),
            "sample": ((x[row] - a * said) / s, said),
        }
        noise, clean = pairs[kind]
        assert_close(gaps["epsilon"][row].abs(), (noise - n[row]).abs())
        assert_close(gaps["x0"][row].abs(), (clean - x0[row]).abs())
        assert_close(gaps["prediction"][row], said - truth[row])


@torch.no_grad()
def test_a_walk_passes_the_states_of_ordinary_sampling_and_keeps_what_was_said() -> None:
    bundle = tiny_sd()
    room = Room(bundle, LESSONS[:1], seed=3)
    states = Walks(count=1, steps=3, guidance=3.0).fill(room, 0).states
    seen: list[torch.Tensor] = []
    ask = Ask(prompts=["a cat"], seeds=[0])
    start = states.x[0:1]
    with Patch(bundle) as patch:

        def wrap(inner: object) -> object:
            def predict(x: torch.Tensor, t: torch.Tensor, cond: Condition) -> torch.Tensor:
                seen.append(x[:1].clone() if seen else start)
                return inner(torch.cat([seen[-1]] * 2), t, cond)  # type: ignore[operator]

            return predict

        patch.wrap("predict", wrap)
        noise = torch.randn(start.shape, generator=row_generator(3, "walk", 0, 0))
        assert_close(start, noise)
        with pytest.MonkeyPatch.context() as change:
            change.setattr("workbench.blocks.denoise.first_noise", lambda *_: noise)
            denoise(bundle, ask, lambda step: None, Course("ddim", 3, 3.0), (16, 16))
    assert_close(states.x, torch.cat(seen))
    assert states.t.tolist() == bundle.scheduler("ddim", 3).timesteps.tolist()
    for told, made in states.said:
        slow = torch.cat([bundle.predict(states.x[i : i + 1], states.t[i : i + 1], room.cond(told[i : i + 1]))
                          for i in range(3)])  # fmt: skip
        assert_close(made, slow, atol=1e-5, rtol=1e-4)
    assert [told.tolist() for told, _ in states.said] == [[1, 1, 1], [0, 0, 0]]


def test_lessons_take_turns_and_each_walk_follows_the_first_role_it_has() -> None:
    room = Room(tiny_sd(), LESSONS)
    states = Walks(count=3, steps=2, guidance=1.0).fill(room, 0).states
    assert Counter(states.lesson.tolist()) == {0: 4, 1: 2}
    told = states.said[0][0]
    assert [room.row("a cat" if lesson == 0 else "the dog") for lesson in states.lesson.tolist()] == told.tolist()
    assert len(states.said) == 1  # without guidance nobody was asked without a prompt
    assert room.told(states.lesson, "kept").min() == -1


def test_a_walk_follows_from_seed_turn_and_place_alone() -> None:
    room = Room(tiny_sd(), LESSONS)
    few, many = (Walks(count=n, steps=2).fill(room, 0).states for n in (2, 3))
    later = Walks(count=2, steps=2).fill(room, 1).states
    assert_close(few.x[:2], many.x[:2])
    assert not torch.equal(few.x, later.x)


def test_drawing_obeys_the_policy() -> None:
    room = Room(tiny_sd(), LESSONS)
    pool = Walks(count=2, steps=4).fill(room, 0)
    states = pool.draw(room, lambda when: (when > 0.5).float(), 40, torch.Generator().manual_seed(0))
    assert len(states.x) == 40
    assert states.t.min() > 500
    assert set(pool.draw(room, uniform, 40, torch.Generator().manual_seed(0)).t.tolist()) == {1, 251, 501, 751}


@torch.no_grad()
def test_pictures_are_noised_to_any_time_with_the_truth_beside_them() -> None:
    room = Room(tiny_sd(), ({"anchor": "the dog"}, {"kept": "a cat"}), seed=2)
    pool = Pictures(count=3, steps=2).fill(room, 0)
    states = pool.draw(room, uniform, 5, torch.Generator().manual_seed(0))
    a, s = room.kernel.scales(states.t, states.x)
    clean = (states.x - s * states.truth) / a
    nearest = torch.cdist(clean.flatten(1), pool.latents.flatten(1)).argmin(1)
    assert_close(clean, pool.latents[nearest], atol=1e-3, rtol=1e-3)
    assert states.lesson.tolist() == pool.lesson[nearest].tolist()
    assert pool.lesson.tolist() == [0, 1, 0]


@torch.no_grad()
@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl])
def test_conditions_are_those_of_sampling(make: object) -> None:
    bundle = make()  # type: ignore[operator]
    room = Room(bundle, LESSONS)
    cond = room.cond(torch.tensor([1, 0]))
    assert cond.roles == ("cond", "uncond")
    assert_close(cond.text.states[:1], bundle.read(["a cat"]).states)
    whole = joined([cond, cond])
    assert len(whole.roles) == len(whole.text.states) == 4
    assert {name: len(value) for name, value in whole.extra.items()} == dict.fromkeys(cond.extra, 4)
    assert (whole.text.pooled is None) == (bundle is tiny_sd())


def test_small_models_compute_in_their_own_numbers() -> None:
    assert precision(tiny_sd()) is None


def test_progress_counts_to_its_total_and_may_stop_the_work() -> None:
    seen: list[Step] = []
    tick = progress(seen.append, 3)
    for _ in range(4):
        tick(5.0)
    assert [(step.index, step.total) for step in seen] == [(0, 3), (1, 3), (2, 3), (2, 3)]
    tick(5.0, {"loss": 2.5})
    assert [dict(step.numbers) for step in seen[-2:]] == [{}, {"loss": 2.5}]

    def stop(step: Step) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        Walks(count=1, steps=2).fill(Room(tiny_sd(), LESSONS, tick=progress(stop, 2)), 0)
