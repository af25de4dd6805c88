"""Block roles: a ratio on paper, movements by hand, true masks, and nothing changed by looking."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.tiny import tiny_sd
from workbench.blocks.world import World
from workbench.core.ask import Ask
from workbench.core.errors import AskError, MissingPart
from workbench.core.patch import fingerprint
from workbench.core.report import Heat, Table
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.inspect.block_roles import BlockRoles, ratio

ASK = Ask(prompts=["a cat and the red dog"], seeds=[1])


def scene(bundle=None) -> Scene:
    return Scene(bundle or tiny_sd(), Diffuse(steps=2, guidance=3.0), (), ASK)


def test_the_ratio_on_paper() -> None:
    moved, inside = torch.tensor([[3.0, 1.0, 1.0, 1.0]]), torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    assert ratio(moved, inside).tolist() == [3.0]
    assert ratio(moved, torch.tensor([[0.5, 0.5, 0.0, 0.0]])).tolist() == pytest.approx([1.5])  # 2 over 4/3
    assert ratio(moved, torch.zeros(1, 4)).tolist() == [1.0]


def test_movements_equal_the_blocks_own_inputs_and_outputs() -> None:
    bundle, kept = tiny_sd(), {}
    sites = bundle.sites("block")

    def hook(module, args, output):
        moved = (output - args[0])[-1].double()  # the conditional row
        kept.setdefault(id(module), []).append(moved.square().sum(-1).sqrt())

    hooks = [site.module.register_forward_hook(hook) for site in sites]
    scene().run()
    for one in hooks:
        one.remove()
    report = BlockRoles(word="cat").look(scene())
    assert report.problems() == []
    mask = torch.from_numpy(next(p for p in report.panels if isinstance(p, Heat)).values).double()
    table = next(panel for panel in report.panels if isinstance(panel, Table))
    for row, site in zip(table.rows, sites, strict=True):
        moved = sum(kept[id(site.module)]) / 2
        side = round(len(moved) ** 0.5)
        inside = torch.nn.functional.adaptive_avg_pool2d(mask[None, None], side).flatten()
        slow = (moved * inside).sum() / inside.sum() / ((moved * (1 - inside)).sum() / (1 - inside).sum())
        assert row[2] == pytest.approx(float(slow), abs=1e-3)


def test_true_masks_need_a_world_and_give_intervals() -> None:
    with pytest.raises(MissingPart, match="tiny-sd has no world of its own"):
        BlockRoles(made=2).look(scene())
    report = BlockRoles(made=3).look(scene(dataclasses.replace(tiny_sd(), world=World.load())))
    table = next(panel for panel in report.panels if isinstance(panel, Table))
    assert all(row[3] <= row[2] <= row[4] for row in table.rows)
    assert not any(isinstance(panel, Heat) for panel in report.panels)


def test_the_last_word_is_taken_unless_one_is_named() -> None:
    titles = [BlockRoles(word=word).look(scene()).panels[0].title for word in ("", "cat")]
    assert titles == ["Where dog is taken to be", "Where cat is taken to be"]
    with pytest.raises(AskError, match="has no word 'bird'"):
        BlockRoles(word="bird").look(scene())


def test_looking_leaves_the_model_as_it_was() -> None:
    plain = scene().run()
    before = fingerprint(tiny_sd())
    BlockRoles().look(scene())
    assert fingerprint(tiny_sd()) == before
    assert np.array_equal(scene().run(), plain)
