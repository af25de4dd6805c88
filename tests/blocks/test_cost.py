"""Costs of a fit: counted by hand, measured once, kept."""

import subprocess
import sys
from dataclasses import replace

import pytest

from tests.methods.measure.painter import Forget, Shelf
from tests.tiny import tiny_sd
from tests.toys import Count, Fade
from workbench.blocks.cost import fit_cost
from workbench.core.patch import differences, fingerprint
from workbench.core.scene import using


def test_what_changes_is_counted() -> None:
    before = fingerprint(tiny_sd())
    cost = fit_cost(tiny_sd(), (Fade(),))
    sites = tiny_sd().sites("cross-attention")
    assert cost.matrices == len(sites)
    assert cost.parameters == sum(site.value.weight.numel() for site in sites)
    assert cost.change == pytest.approx(0.5)
    assert cost.kib == cost.parameters * 4 / 1024
    assert cost.seconds > 0
    assert cost.peak_mib > 0
    assert differences(before, fingerprint(tiny_sd())) == []


def test_an_edit_that_acts_while_drawing_costs_nothing_to_fit() -> None:
    cost = fit_cost(tiny_sd(), (Count(),))
    assert (cost.seconds, cost.peak_mib, cost.matrices, cost.parameters) == (0.0, 0.0, 0, 0)


def test_a_cost_is_measured_once_and_the_delta_is_kept_beside_it() -> None:
    shelf = Shelf()
    bundle = replace(tiny_sd(), store=shelf)
    first = fit_cost(bundle, (Fade(), Forget()))
    assert fit_cost(bundle, (Fade(), Forget())) == first
    kept = len(shelf.kept)
    with using(bundle, Fade(), Forget()):
        pass
    assert len(shelf.kept) == kept  # both deltas were there


def test_peak_memory_sees_what_came_and_went() -> None:
    """In a process of its own: where the system cannot restart the peak, it is that of all tests before."""
    code = """
import torch
from workbench.blocks.cost import peak
with peak(torch.device("cpu")) as empty:
    pass
with peak(torch.device("cpu")) as full:
    torch.ones(64 << 18).sum()  # 64 MiB
print(full[0] - empty[0])
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert int(done.stdout) > 32 << 20
