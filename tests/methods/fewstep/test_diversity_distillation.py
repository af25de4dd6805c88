"""Diversity distillation: whose answer each step is, where guidance acts, and the two ends that are plain runs."""

import pytest
import torch

from tests.tiny import tiny_sd
from workbench.blocks.denoise import condition
from workbench.blocks.students import studying
from workbench.core.ask import Ask
from workbench.core.errors import AskError
from workbench.core.patch import Patch
from workbench.core.tape import Step, ignore
from workbench.methods.fewstep.diversity_distillation import DiversityDistillation
from workbench.methods.fewstep.lcm import Lcm

GOLDEN = 40.187  # deviation in grey levels with the adapter random:1
ASK = Ask(prompts=["a cat", "the red dog"], seeds=[1, 2])


def states(sampler: object) -> list[torch.Tensor]:
    seen: list[Step] = []
    sampler.sample(tiny_sd(), ASK, seen.append)  # type: ignore[attr-defined]
    return [step.x for step in seen]


def test_the_first_step_is_the_bases_and_the_rest_the_students() -> None:
    mixed = states(DiversityDistillation(student="random:1", steps=3))
    base, student = states(Lcm(student="", steps=3)), states(Lcm(student="random:1", steps=3))
    assert torch.equal(mixed[0], base[0])
    assert not torch.equal(mixed[1], base[1])
    assert not torch.equal(mixed[0], student[0])


def test_no_step_of_the_base_is_the_student_alone_and_all_are_the_base_alone() -> None:
    for count, student in ((0, "random:1"), (3, "")):
        mixed = states(DiversityDistillation(student="random:1", steps=3, base_steps=count))
        assert all(map(torch.equal, mixed, states(Lcm(student=student, steps=3))))


@torch.no_grad()
def test_slow_twin() -> None:
    """Each answer asked for by hand, of the base and then of the student."""
    mixed = states(DiversityDistillation(student="random:1", steps=2, guidance=4.0))
    first = states(Lcm(student="", steps=2, guidance=4.0))[0]
    assert torch.equal(mixed[0], first)
    bundle, seen = tiny_sd(), []
    DiversityDistillation(student="random:1", steps=2, guidance=4.0).sample(bundle, ASK.row(0), seen.append)
    with studying(bundle, "random:1"):
        said = bundle.predict(seen[0].x, torch.tensor([499]), condition(bundle, ASK.row(0), False, (16, 16))).double()
    bar = bundle.scheduler("lcm", 1).alphas_cumprod.double()[499]
    clean = (seen[0].x.double() - (1 - bar).sqrt() * said) / bar.sqrt()
    torch.testing.assert_close(seen[1].x.double(), clean, atol=1e-4 * float(clean.abs().max()), rtol=0)


def test_only_the_bases_steps_are_guided() -> None:
    rows: list[int] = []
    with Patch(tiny_sd()) as patch:
        patch.hook(tiny_sd().parts["unet"], lambda module, args, kwargs: rows.append(len(args[0])), "before")
        states(DiversityDistillation(student="random:1", steps=4, base_steps=2, guidance=5.0))
    assert rows == [4, 4, 2, 2]


def test_more_steps_of_the_base_than_there_are_is_refused() -> None:
    with pytest.raises(AskError, match="diversity-distillation has base_steps 5 of 4 steps"):
        DiversityDistillation(base_steps=5)


def test_the_tiny_model_draws_this_number_with_seeds_1_and_2() -> None:
    images = DiversityDistillation(student="random:1", steps=2).sample(tiny_sd(), ASK, ignore).float()
    assert images.std().item() == pytest.approx(GOLDEN, rel=1e-2)
