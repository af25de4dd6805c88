"""Adversarial preservation: both terms in float64, the adversary's gradient, and how short a further eraser is."""

import inspect
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from tests.methods.erase.twins import Network, first, square
from tests.tiny import tiny_sd, tiny_sdxl
from workbench.blocks.distill import Batch, Pull, answer, student, teacher
from workbench.blocks.groups import Trainee, select
from workbench.blocks.pools import Room, Walks
from workbench.core.patch import Patch
from workbench.core.tape import ignore
from workbench.methods.erase.adversarial_preservation import AdversarialPreservation, Adversary
from workbench.ops.noise import row_generator

QUICK = AdversarialPreservation(**AdversarialPreservation.quick)
WORDS = ({"kept": "a dog"}, {"kept": "red"}, {"kept": "the"})


def test_the_file_is_short() -> None:
    assert len(Path(inspect.getfile(AdversarialPreservation)).read_text("utf-8").splitlines()) < 150


def test_the_loss_equals_the_equations_in_float64() -> None:
    recipe = QUICK.but(batch=6, eta=2.0).recipe(tiny_sd())
    states, losses, values = first(recipe, nudge=0.2)
    bars = tiny_sd().scheduler("ddpm", 2).alphas_cumprod.double()
    old, new, slow = Network(), Network(values), [0.0, 0.0]

    def clean(network: Network, row: int, prompt: str | None) -> torch.Tensor:
        bar = bars[states.t[row]]
        return (states.x[row].double() - (1 - bar).sqrt() * network.says(states, row, prompt)) / bar.sqrt()

    for row in range(6):
        lesson = recipe.lessons[int(states.lesson[row])]
        if "kept" in lesson:
            slow[1] += square(clean(new, row, lesson["kept"]), clean(old, row, lesson["kept"])) / 6
        else:
            concept, empty = clean(old, row, lesson["concept"]), clean(old, row, lesson["empty"])
            slow[0] += square(clean(new, row, lesson["concept"]), empty - 2 * (concept - empty)) / 6
    assert losses == pytest.approx(slow, rel=1e-3)
    assert min(slow) > 0


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl])
def test_the_adversary_climbs_by_the_straight_through_gradient(make: object) -> None:
    bundle = make()  # type: ignore[operator]
    stay = Pull(student("kept"), teacher("kept"))
    with Patch(bundle) as patch:
        trainee = Trainee(patch, select(bundle, "xattn_v"))
        room = Room(bundle, WORDS, trainee)
        states = Walks(3, 2).fill(room, 0).draw(room, torch.ones_like, 2, torch.Generator().manual_seed(0))
        for live in trainee.live:
            live.data = live.data * 1.3
        adversary = Adversary(WORDS, stay, 0.1, 0)
        adversary.before(Batch(room, states))
        assert not adversary.pi.any()  # the model has not moved yet when it first chooses
        gradient = torch.zeros(3)
        adversary.optimiser.step = lambda *_: gradient.copy_(adversary.pi.grad)  # type: ignore[method-assign, assignment]
        adversary.before(Batch(room, states))
        # by hand: d loss / d states, times E, times the Jacobian of the softmax
        trial = Batch(room, states)
        adversary.count -= 1
        adversary.choose(trial)
        cond = trial.conds["kept"]
        parts = [p for p in (cond.text.states, cond.text.pooled) if p is not None]
        answer(trial, (stay,))
        outer = torch.autograd.grad(stay(trial), parts, retain_graph=True)
        every = room.cond(torch.tensor([room.row(lesson["kept"]) for lesson in WORDS])).text
        banks = [b for b in (every.states, every.pooled) if b is not None]
        inner = sum((grad.sum(0) * bank).flatten(1).sum(1) for grad, bank in zip(outer, banks, strict=True))
    draw = torch.rand(3, generator=row_generator(0, "gumbel", 1))
    soft = torch.softmax(-(-draw.log()).log() / 2, -1)
    slow = -0.5 * soft * (inner - (soft * inner).sum())  # downwards, as Adam climbs down
    assert gradient.any()
    assert_close(gradient, slow, atol=1e-6, rtol=1e-2)


def test_the_chosen_word_is_one_of_the_bank_and_follows_the_logits() -> None:
    room = Room(tiny_sd(), WORDS)
    states = Walks(3, 2).fill(room, 0).states
    adversary = Adversary(WORDS, Pull(student("kept"), teacher("kept")), 0.1, 0)
    adversary.pi.data[1] = 50.0
    batch = Batch(room, states)
    with torch.no_grad():
        adversary.choose(batch)
    assert_close(batch.conds["kept"].text.states[0], tiny_sd().read(["red"]).states[0], atol=1e-5, rtol=1e-4)


def test_the_adversary_goes_on_after_a_restart() -> None:
    one, other = (Adversary(WORDS, Pull(student("kept"), teacher("kept")), 0.1, 0) for _ in range(2))
    one.pi.grad = torch.tensor([1.0, 0.0, -1.0])
    one.optimiser.step()
    one.count = 1
    other.restore({name: value.clone() for name, value in one.tensors().items()})
    for adversary in (one, other):
        adversary.pi.grad = torch.tensor([0.5, 0.5, -1.0])
        adversary.optimiser.step()
    assert torch.equal(one.pi, other.pi)
    assert other.count == 1


def test_without_a_preserve_list_near_words_are_taken() -> None:
    recipe = QUICK.but(preserve=(), words=3, near=6).recipe(tiny_sd())
    words = {lesson["kept"] for lesson in recipe.lessons if "kept" in lesson}
    assert 1 <= len(words) <= 3
    assert all("cat" not in word.split() for word in words)
    assert QUICK.but(preserve=(), words=2, near=4).fit(tiny_sd(), ignore).kind == "weights"


def test_the_first_losses_of_seed_0_are_these() -> None:
    assert first(QUICK.but(batch=4).recipe(tiny_sd()))[1] == pytest.approx([0.010047, 0.0], rel=1e-3, abs=1e-9)
