"""Counting or timing a run by scale: nothing of the run changes, and what is drawn for a watcher is left out."""

from typing import Any

import torch

from tests.tiny import tiny_var
from workbench.blocks.scale_costs import PICTURE, Cost, Watch
from workbench.blocks.scales import own_grids
from workbench.core.ask import Ask
from workbench.core.scene import Scene
from workbench.core.tape import ignore
from workbench.methods.decode.var import Var

ASK = Ask(prompts=["class:2", "class:4"], seeds=[1, 2])


def watched(cost: Cost, counted: bool, tap: Any = ignore) -> torch.Tensor:
    bundle = tiny_var()
    scene = Scene(bundle, Var(guidance=2.0, top_p=0.9), (), ASK, tap=tap)
    with Watch(cost, bundle.device, counted).counting() as watch:
        return scene.run(record=watch.attach)


def test_a_counted_and_a_timed_run_draw_what_is_drawn_unwatched() -> None:
    cost = Cost()
    plain = Scene(tiny_var(), Var(guidance=2.0, top_p=0.9), (), ASK).run()
    assert torch.equal(watched(cost, True), plain)
    assert torch.equal(watched(cost, False), plain)
    scales = set(range(len(own_grids(tiny_var()))))
    assert set(cost.work) == set(cost.seconds[0]) == scales | {PICTURE}
    assert set(cost.tokens) == set(cost.held) == scales
    assert len(cost.seconds) == 1
    assert cost.total == sum(cost.work[k] for k in scales)
    assert cost.most == cost.held[5] > cost.held[4]
    assert not cost.kept


def test_times_are_medians_over_runs() -> None:
    cost = Cost()
    cost.seconds = [{0: 1.0}, {0: 4.0}, {0: 2.0}]  # type: ignore[list-item]
    assert cost.milliseconds(0) == 2000


def test_previews_of_a_watcher_are_not_counted() -> None:
    plain, shown = Cost(), Cost()
    watched(plain, True)
    watched(shown, True, tap=lambda step: tiny_var().decode(step.x))
    assert shown.work == plain.work
