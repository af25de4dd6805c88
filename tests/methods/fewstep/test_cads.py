"""CADS: the schedule on paper, the equations in float64, row independence, rest."""

import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from tests.tiny import tiny_sd, tiny_sdxl
from workbench.core.bundle import Condition, TextStates
from workbench.core.errors import AskError
from workbench.core.scene import using
from workbench.core.tape import Step
from workbench.methods.fewstep.cads import Cads
from workbench.ops.noise import row_noise


def condition(level: float, index: int = 0, rows: int = 2) -> Condition:
    states = torch.randn(2 * rows, 5, 6, generator=torch.Generator().manual_seed(3))
    roles = ("uncond",) * rows + ("cond",) * rows
    return Condition(TextStates(states, states.mean(1)), tuple(range(rows)) * 2, roles, Step(index, 10, level))  # type: ignore[arg-type]


@pytest.mark.parametrize(("t", "gamma"), [(0, 1), (0.6, 1), (0.75, 0.5), (0.9, 0), (1, 0)])
def test_gamma_on_paper(t: float, gamma: float) -> None:
    assert Cads(tau1=0.6, tau2=0.9).gamma(t) == pytest.approx(gamma)


def test_gamma_is_a_switch_where_both_times_are_one() -> None:
    assert [Cads(tau1=0.5, tau2=0.5).gamma(t) for t in (0.5, 0.500001)] == [1.0, 0.0]


@pytest.mark.parametrize(("level", "psi"), [(750.0, 1.0), (750.0, 0.3), (950.0, 0.0), (950.0, 1.0)])
def test_it_equals_the_equations_in_float64(level: float, psi: float) -> None:
    edit, cond = Cads(rescale=psi, noise=0.25), condition(level, index=4)
    fast = edit._annealed(cond).text
    gamma = min(max((0.9 - level / 1000) / 0.3, 0), 1)
    for row, seed in ((2, 0), (3, 1)):
        pairs = (("cads", cond.text.states, fast.states), ("cads pooled", cond.text.pooled, fast.pooled))
        for name, whole, new in pairs:
            y = whole[row].double().flatten().tolist()
            n = row_noise([seed], whole.shape[1:], name, 4).double().flatten().tolist()
            noisy = [math.sqrt(gamma) * a + 0.25 * math.sqrt(1 - gamma) * b for a, b in zip(y, n, strict=True)]

            def moments(v: list[float]) -> tuple[float, float]:
                mean = sum(v) / len(v)
                return mean, math.sqrt(sum((a - mean) ** 2 for a in v) / (len(v) - 1))

            (m0, s0), (m1, s1) = moments(y), moments(noisy)
            slow = [psi * ((a - m1) / s1 * s0 + m0) + (1 - psi) * a for a in noisy]
            assert_close(new[row].double().flatten(), torch.tensor(slow, dtype=torch.float64), atol=2e-6, rtol=0)


def test_rows_without_a_prompt_are_left_alone() -> None:
    cond = condition(900.0)
    text = Cads()._annealed(cond).text
    assert torch.equal(text.states[:2], cond.text.states[:2])
    assert not torch.equal(text.states[2:], cond.text.states[2:])


def test_a_row_does_not_depend_on_its_mates_and_each_step_has_its_own_noise() -> None:
    cond = condition(800.0)
    both, alone = Cads()._annealed(cond), Cads()._annealed(cond.rows([3]))
    assert torch.equal(both.text.states[3:], alone.text.states)
    later = Cads()._annealed(replace(cond, step=Step(1, 10, 800.0)))
    assert not torch.equal(later.text.states[3], both.text.states[3])


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl])
@torch.no_grad()
def test_times_of_one_and_calls_outside_a_run_change_nothing(make: object) -> None:
    bundle = make()  # type: ignore[operator]
    from workbench.blocks.denoise import condition as conditioned
    from workbench.core.ask import Ask

    cond = conditioned(bundle, Ask(prompts=["a cat"]), True, (16, 16))
    x, t = torch.zeros(2, 4, 8, 8), torch.full((2,), 999)
    plain = bundle.predict(x, t, cond)
    with using(bundle, Cads()):
        assert torch.equal(bundle.predict(x, t, cond), plain)
        assert not torch.equal(bundle.predict(x, t, replace(cond, step=Step(0, 4, 999.0)))[1], plain[1])
    with using(bundle, Cads(**Cads.neutral)):
        assert torch.equal(bundle.predict(x, t, replace(cond, step=Step(0, 4, 999.0))), plain)


def test_times_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(AskError, match=r"cads has tau1 0\.9 above tau2 0\.5, must have tau1 <= tau2"):
        Cads(tau1=0.9, tau2=0.5)


def test_the_condition_of_seed_0_at_750_is_this_one() -> None:
    text = Cads()._annealed(condition(750.0)).text
    assert text.states[2:].abs().mean().item() == pytest.approx(0.61981, rel=1e-4)
