"""ANT: four terms in float64, by the paper and by its code; masks that agree; entries outside stay."""

import pytest
import torch

from tests.methods.erase.twins import Network, first, square
from tests.tiny import tiny_sd
from workbench.core.tape import ignore
from workbench.methods.erase.ant import Ant

QUICK = Ant(**Ant.quick)


@pytest.mark.parametrize("variant", ["exact", "compat"])
def test_the_loss_equals_the_equations_in_float64(variant: str) -> None:
    edit = QUICK.but(variant=variant, share=1.0, eta=2.0, keep_early=0.6, keep_empty=0.4, batch=8, boundary=0.4)
    recipe = edit.recipe(tiny_sd())
    states, losses, values = first(recipe, nudge=0.2)
    old, new, slow, early_rows = Network(), Network(values), 0.0, 0
    for row in range(8):
        lesson = recipe.lessons[int(states.lesson[row])]
        concept, empty = old.says(states, row, lesson["concept"]), old.says(states, row, lesson["empty"])
        said, silent = new.says(states, row, lesson["concept"]), new.says(states, row, lesson["empty"])
        t = int(states.t[row])
        keeping = t >= 600 if variant == "exact" else t < 400
        early_rows += keeping
        towards, away = empty + 2 * (concept - empty), empty - 2 * (concept - empty)
        part = square(said, towards if keeping else away)
        if variant == "exact":  # in the code the terms in e(0) are constants
            part += 0.4 * square(silent, empty)
        slow += 2 / 8 * part * (0.6 if keeping else 1)
    assert 0 < early_rows < 8
    assert sum(losses) == pytest.approx(slow, rel=1e-3)


def test_either_kind_of_steps_is_drawn_as_often() -> None:
    when = torch.linspace(0.05, 0.95, 10)
    edit = Ant(concepts="cat", boundary=0.2)
    weights = edit.times(when)
    assert float(weights[when >= 0.8].sum()) == pytest.approx(float(weights[when < 0.8].sum()))
    assert Ant(concepts="cat", boundary=0.2, variant="compat").border == 0.2
    assert torch.isfinite(edit.times(torch.tensor([0.1, 0.2]))).all()


def test_masks_hold_what_all_draws_choose_and_the_code_chooses_the_rest() -> None:
    edit = QUICK.but(draws=2, share=0.5, eta=1.0, keep_empty=0.0)
    exact = edit.masks(tiny_sd(), ("cat",), ignore)
    single = edit.but(draws=1).masks(tiny_sd(), ("cat",), ignore)
    for key, mask in exact.items():
        assert mask.sum() <= single[key].sum() == max(1, round(0.5 * mask.numel()))
        assert not (mask * (1 - single[key])).any()
    lowest = edit.but(draws=1, variant="compat").masks(tiny_sd(), ("cat",), ignore)
    assert any((lowest[key] != single[key]).any() for key in single)


def test_entries_outside_the_mask_keep_their_values() -> None:
    edit = QUICK.but(iterations=3, rate=1e-2)
    masks, delta = edit.masks(tiny_sd(), ("cat",), ignore), edit.fit(tiny_sd(), ignore)
    assert all(not (value * (1 - masks[key])).any() for key, value in delta.tensors.items())
    assert any(value.any() for value in delta.tensors.values())


def test_the_first_loss_of_seed_0_is_this_one() -> None:
    losses = first(QUICK.but(share=1.0, batch=8).recipe(tiny_sd()))[1]
    assert losses == pytest.approx([0.00109357, 0, 0, 0], rel=1e-3, abs=1e-9)
