"""The adapter report: its numbers from dense matrices, files that do not fit, and adapters of the scene's edits."""

from pathlib import Path

import pytest
import torch

from tests.loras import diffusers, saved
from tests.tiny import tiny_sd, tiny_sdxl
from workbench.blocks.adapters import random_adapter
from workbench.core.ask import Ask
from workbench.core.errors import AskError
from workbench.core.report import Heat, Note, Report, Table
from workbench.core.scene import Scene
from workbench.methods.compose.lora import Lora
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.inspect.adapter_report import AdapterReport


def look(lens: AdapterReport, *edits: Lora) -> Report:
    return lens.look(Scene(tiny_sd(), Diffuse(steps=1), edits, Ask(prompts=["a cat"])))


def test_energies_are_those_of_the_dense_changes() -> None:
    found = look(AdapterReport(adapters=["random:1", "random:2"], weights=[0.5, 2.0]))
    for name, weight in (("random:1", 0.5), ("random:2", 2.0)):
        low = random_adapter(tiny_sd(), name).low_rank
        whole = torch.cat([low.dense(key).flatten() for key in low]).double().norm()
        assert found.numbers[f"energy {name}"] == pytest.approx(weight * float(whole), rel=1e-5)
    assert found.problems() == []
    table = next(panel for panel in found.panels if isinstance(panel, Table) and panel.title == "Weights")
    suggested = [float(row[4]) for row in table.rows]
    norms = [float(row[2]) / float(row[3]) for row in table.rows]
    assert suggested[0] * norms[0] == pytest.approx(suggested[1] * norms[1], rel=1e-2)


def test_random_adapters_change_every_block_by_the_same_share() -> None:
    found = look(AdapterReport(adapters=["random:1"], weights=[1.0]))
    heat = next(panel for panel in found.panels if isinstance(panel, Heat))
    assert heat.values == pytest.approx(0.3 * torch.ones(heat.values.shape).numpy(), rel=1e-3)
    assert "unet down_blocks.0" in heat.title


def test_twins_interfere_fully() -> None:
    found = look(AdapterReport(adapters=["random:1", "random:1"]))
    assert found.numbers["interference"] == pytest.approx(1)
    assert {"energy random:1 (1)", "energy random:1 (2)"} <= set(found.numbers)


def test_the_scenes_own_adapters_are_taken_at_their_weights() -> None:
    mine = look(AdapterReport(), Lora(adapters=["random:1", "random:3"], weights=[1.0, 0.25]))
    named = look(AdapterReport(adapters=["random:1", "random:3"], weights=[1.0, 0.25]))
    assert dict(mine.numbers) == dict(named.numbers)


def test_a_file_that_does_not_fit_is_reported_and_not_raised(tmp_path: Path) -> None:
    file = saved(diffusers(tiny_sdxl())[0], tmp_path / "other.safetensors")
    found = look(AdapterReport(adapters=[str(file)]))
    assert found.numbers["refused"] == 1.0
    assert any(isinstance(panel, Note) and panel.title == "Refused" for panel in found.panels)
    assert found.problems() == []


def test_a_report_on_nothing_is_refused() -> None:
    with pytest.raises(AskError, match="no adapter is named"):
        look(AdapterReport())
    with pytest.raises(AskError, match="2 adapters and 1 weights"):
        look(AdapterReport(adapters=["random:1", "random:2"], weights=[1.0]))
