"""What a run keeps: by rows, by the call within a step, nothing outside, empty at every start."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.tiny import tiny_pixart, tiny_sd, tiny_sdxl
from workbench.blocks.caching import Memory, stages
from workbench.blocks.denoise import condition
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Condition, Seams
from workbench.core.errors import AskError
from workbench.core.patch import Patch
from workbench.core.tape import Ended, Started, Step


class Counter(nn.Module):
    """Adds how often it ran to what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.ran = 0
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.ran += 1
        return x + self.ran, x


def toy() -> tuple[Bundle, Counter]:
    module = Counter()
    nothing: Any = lambda *args: args[0]  # noqa: E731
    seams = Seams(nothing, lambda x, t, cond: module(x)[0], nothing, nothing, nothing)
    return Bundle("toy", "unet", "toy", {"unet": module}, tiny_sd().shapes, seams), module


def never(cond: Condition) -> bool:
    return False


@contextmanager
def remembering(due: Callable[[Condition], bool] = never) -> Iterator[tuple[Bundle, Counter]]:
    """A toy in a run of four steps, its module memoised."""
    bundle, module = toy()
    with Patch(bundle) as patch:
        memory = Memory("toy", due)
        memory.attach(patch)
        memory.memoise(patch, module, "module")
        bundle.tell(Started(4, (1, 2)))
        yield bundle, module


def at(index: int, cond: Condition) -> Condition:
    return replace(cond, step=Step(index, 4, 500.0))


def both() -> Condition:
    return condition(tiny_sd(), Ask(prompts=["a cat", "a dog"], seeds=[1, 2]), True, (16, 16))


def test_due_calls_compute_and_others_reuse() -> None:
    x, cond = torch.zeros(4, 1), both()
    with remembering(lambda cond: cond.step is not None and cond.step.index % 2 == 0) as (bundle, module):
        assert [float(bundle.predict(x, x, at(i, cond))[0]) for i in range(4)] == [1, 1, 2, 2]
        bundle.tell(Ended())
        assert float(bundle.predict(x, x, at(3, cond))[0]) == 3  # outside of a run
        bundle.tell(Started(4, (1, 2)))
        assert float(bundle.predict(x, x, at(1, cond))[0]) == 4  # nothing is left of the last run
        assert float(bundle.predict(x, x, cond)[0]) == 5  # a call without a step
    assert module.ran == 5


def test_rows_that_stay_are_picked_and_unknown_rows_are_computed() -> None:
    x, cond = torch.arange(4.0)[:, None], both()
    with remembering() as (bundle, module):
        bundle.predict(x, x, at(0, cond))
        part = bundle.predict(x[2:] + 9, x, at(1, cond.rows([2, 3])))
        assert part.flatten().tolist() == [3.0, 4.0]  # of the first call's rows 2 and 3
        other = bundle.predict(x[:1] + 9, x, at(1, replace(cond.rows([0]), seeds=(7,))))
        assert other.flatten().tolist() == [11.0]
    assert module.ran == 2


def test_two_calls_of_one_step_are_kept_apart() -> None:
    x, cond = torch.zeros(4, 1), both()
    with remembering() as (bundle, _):
        for index in range(2):
            now = at(index, cond)
            assert float(bundle.predict(x, x, now)[0]) == 1
            assert float(bundle.predict(x + 5, x, now)[0]) == 7


def reworded(cond: Condition) -> Condition:
    """The same rows under another text, as an edit's own call has them."""
    other = condition(tiny_sd(), Ask(prompts=["the red dog"] * 2, seeds=[1, 2]), False, (16, 16)).text
    return replace(cond, text=other)


def test_a_call_that_appears_in_mid_run_does_not_take_anothers_memory() -> None:
    """Step 0 asks for the prompt alone; from step 1 on an edit asks for its own text first, with the same rows."""
    x, cond = torch.zeros(2, 1), both().rows([2, 3])
    with remembering() as (bundle, module):
        assert float(bundle.predict(x, x, at(0, cond))[0]) == 1
        for index in (1, 2):
            assert float(bundle.predict(x + 50, x, at(index, reworded(cond)))[0]) == 52
            assert float(bundle.predict(x, x, at(index, cond))[0]) == 1
        assert float(bundle.predict(x, x, at(3, cond))[0]) == 1  # the edit's call is gone again
    assert module.ran == 2


def test_a_guidance_cut_off_does_not_hand_the_prompt_what_a_concept_left() -> None:
    """While guidance lasts a concept is asked for beside the guided pair; after it the prompt's rows are alone, too."""
    x, cond = torch.arange(4.0)[:, None], both()
    with remembering() as (bundle, module):
        bundle.predict(x, x, at(0, cond))
        bundle.predict(x[:2] + 50, x, at(0, reworded(cond.rows([2, 3]))))
        alone = bundle.predict(x[2:], x, at(1, cond.rows([2, 3])))
        assert alone.flatten().tolist() == [3.0, 4.0]  # its own rows of the guided call
        assert bundle.predict(x[:2], x, at(1, reworded(cond.rows([2, 3])))).flatten().tolist() == [52.0, 53.0]
    assert module.ran == 2


def test_a_call_with_gradients_has_a_memory_of_its_own() -> None:
    x, cond = torch.zeros(2, 1), both().rows([2, 3])
    with remembering() as (bundle, _), torch.no_grad():
        with torch.enable_grad():
            assert float(bundle.predict(x + 50, x, at(0, cond))[0]) == 51
        assert float(bundle.predict(x, x, at(0, cond))[0]) == 2
        assert float(bundle.predict(x, x, at(1, cond))[0]) == 2  # now nobody looks for gradients before


def test_a_run_of_one_step_is_refused_and_leaves_nothing() -> None:
    bundle, _ = toy()
    with Patch(bundle) as patch:
        Memory("toy", never).attach(patch)
        with pytest.raises(AskError, match="toy reuses what earlier steps computed; this run has 1 step"):
            bundle.tell(Started(1, (1,)))


def test_the_layers_of_a_unet_hold_everything_that_runs() -> None:
    for bundle in (tiny_sd(), tiny_sdxl()):
        found = stages(bundle)
        assert [stage.site.side for stage in found] == ["down", "down", "mid", "up", "up"]
        assert [len(stage.layers) for stage in found] == [1, 1, 2, 2, 2]
        for stage in found:
            inside = {id(module) for layer in (*stage.layers, stage.last) for module in layer}
            entries = {id(entry) for group in stage.site.module.children() for entry in group.children()}
            assert inside == entries
    assert stages(tiny_pixart()) == ()
