"""First-block cache: never at 0, each image decides for itself, and the cached difference is added."""

from typing import Any

import pytest
import torch

from tests.tiny import tiny_flux, tiny_pixart, tiny_sd, tiny_sd3
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.errors import AskError, MissingPart
from workbench.core.patch import Patch, differences, fingerprint
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.reduce.cfg_cutoff import CfgCutoff
from workbench.methods.reduce.first_block_cache import FirstBlockCache

ASK = Ask(prompts=["a cat", "the red dog", "a flat dog"], seeds=[1, 2, 3])
each = pytest.mark.parametrize("make", [tiny_pixart, tiny_sd3, tiny_flux])


def drawn(bundle: Bundle, *edits: Any, ask: Ask = ASK, steps: int = 6, record: Any = None) -> torch.Tensor:
    return Scene(bundle, Diffuse(steps=steps, guidance=3.0), edits, ask).run(record=record)


@each
def test_it_is_neutral_at_0_and_reuses_all_but_the_first_step_at_the_most(make: Any) -> None:
    bundle = make()
    before, ran = fingerprint(bundle), []
    inner = bundle.sites("mlp")[-1].module

    def record(patch: Patch) -> None:
        patch.hook(inner, lambda module, args, kwargs: ran.append(1), "before")

    plain = drawn(bundle, record=record)
    whole = len(ran)
    assert torch.equal(drawn(bundle, FirstBlockCache(threshold=0.0)), plain)
    ran.clear()
    rough = drawn(bundle, FirstBlockCache(threshold=2.0), record=record)
    assert len(ran) * 6 == whole
    assert not torch.equal(rough, plain)
    assert differences(before, fingerprint(bundle)) == []


@each
def test_an_image_does_not_depend_on_its_mates(make: Any) -> None:
    bundle = make()
    for threshold in (0.02, 0.1, 0.3):
        edit = FirstBlockCache(threshold=threshold)
        alone = torch.cat([drawn(bundle, edit, ask=ASK.row(i)) for i in range(3)])
        assert (drawn(bundle, edit).int() - alone.int()).abs().max() <= 1


def test_a_slow_twin_of_one_row() -> None:
    bundle, edit = tiny_pixart(), FirstBlockCache(threshold=0.15)
    blocks = [site.module for site in bundle.sites("block")]
    decisions: list[bool] = []
    kept: dict[str, torch.Tensor] = {}

    def twin(patch: Patch) -> None:
        """The rule again, for a batch of one image, with everything computed."""

        def first(module: Any, args: Any, kwargs: Any, output: torch.Tensor) -> None:
            change = output - args[0]
            gap = [float((a - b).abs().mean() / b.abs().mean()) for a, b in zip(change, kept.get("r", change * 0 + 9))]  # noqa: B905
            decisions.append("r" not in kept or max(gap) >= edit.threshold)
            kept["start"] = output
            if decisions[-1]:
                kept["r"] = change

        def last(module: Any, args: Any, kwargs: Any, output: torch.Tensor) -> torch.Tensor:
            if decisions[-1]:
                kept["d"] = output - kept["start"]
            return kept["start"] + kept["d"]

        patch.hook(blocks[0], first)
        patch.hook(blocks[-1], last)

    slow = drawn(bundle, ask=ASK.row(0), steps=8, record=twin)
    assert True in decisions[1:] or False in decisions
    assert (drawn(bundle, edit, ask=ASK.row(0), steps=8).int() - slow.int()).abs().max() <= 1


def test_a_guidance_cut_off_keeps_the_rows_that_stay() -> None:
    for edits in ((FirstBlockCache(threshold=2.0), CfgCutoff()), (CfgCutoff(), FirstBlockCache(threshold=2.0))):
        alone = torch.cat([drawn(tiny_sd3(), *edits, ask=ASK.row(i)) for i in range(3)])
        assert (drawn(tiny_sd3(), *edits).int() - alone.int()).abs().max() <= 1


def test_a_unet_and_a_run_of_one_step_are_refused() -> None:
    with pytest.raises(AskError, match="first-block-cache reuses what earlier steps computed; this run has 1 step"):
        drawn(tiny_pixart(), FirstBlockCache(), steps=1)
    with Patch(tiny_sd()) as patch, pytest.raises(MissingPart, match="For UNets there is deep-cache"):
        FirstBlockCache().patch(tiny_sd(), FirstBlockCache().fit(tiny_sd(), lambda step: None), patch)
