"""Token downsampling: queries stay, keys are the cells' first tokens, on UNets and joint transformers."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.tiny import tiny_flux, tiny_pixart, tiny_sd, tiny_sd3
from workbench.blocks.denoise import condition
from workbench.blocks.recorder import Recorder, looks_from
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.patch import Patch
from workbench.core.scene import Scene, using
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.reduce.todo import Todo
from workbench.methods.reduce.tome import Tome
from workbench.ops.tokens import coarse

ASK = Ask(prompts=["a cat", "the red dog"], seeds=[1, 2])


def test_the_first_token_of_each_cell_on_paper() -> None:
    cell, first = coarse((3, 4), 2)
    assert cell.tolist() == [0, 0, 1, 1, 0, 0, 1, 1, 2, 2, 3, 3]
    assert first.tolist() == [0, 2, 8, 10]


@torch.no_grad()
def test_it_equals_attention_to_every_other_token_in_float64() -> None:
    bundle = tiny_sd()
    cond = condition(bundle, ASK, True, (16, 16))
    site = next(site for site in bundle.sites("self-attention") if site.level == 0)
    seen: list[tuple[Tensor, Tensor]] = []

    def note(module: Any, args: Any, kwargs: Any, output: Tensor) -> None:
        seen.append((args[0], output))

    with using(bundle, Todo(), record=lambda patch: patch.hook(site.module, note)):
        bundle.predict(torch.zeros(4, 4, 8, 8), torch.full((4,), 500), cond)
    x, found = seen[0][0].double(), seen[0][1]
    kept = [row * 8 + column for row in range(0, 8, 2) for column in range(0, 8, 2)]
    q = x @ site.query.weight.double().T
    k, v = (x[:, kept] @ handle.weight.double().T for handle in (site.key, site.value))
    heads = site.heads or 1
    q, k, v = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (q, k, v))
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    out = (weights @ v).transpose(1, 2).flatten(2) @ site.out.weight.double().T + site.out.owner.bias.double()
    assert_close(found.double(), out, atol=1e-5, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize("make", [tiny_pixart, tiny_sd3, tiny_flux])
def test_transformers_look_at_fewer_picture_tokens_and_all_of_the_text(make: Any) -> None:
    bundle: Bundle = make()
    lengths: set[tuple[int, int]] = set()

    def record(patch: Patch) -> None:
        for site in bundle.sites("self-attention"):
            patch.attend(site, lambda call: (lengths.add((call.query.shape[-2], call.key.shape[-2])), call.run())[1])

    Scene(bundle, Diffuse(steps=2), (Todo(),), ASK).run(record=record)
    assert lengths
    tokens = bundle.sites("self-attention")[0].tokens or 0
    assert all(queries - keys == tokens - tokens // 4 for queries, keys in lengths)


def test_maps_come_back_on_the_full_grid_alone_and_with_merged_queries() -> None:
    site = next(site for site in tiny_sd().sites("self-attention") if site.level == 0)
    for edits in ((Todo(),), (Tome(), Todo())):
        recorder = Recorder()
        recorder.attention([site], "gaze", looks_from((3, 3), (16, 16)))
        Scene(tiny_sd(), Diffuse(steps=2), edits, ASK).run(record=recorder.attach)
        gaze = recorder.taken("gaze", site)
        assert gaze.shape == (2, 2, 64)
        assert_close(gaze.sum(-1), torch.ones(2, 2))
        cells = gaze.unflatten(-1, (4, 2, 4, 2)).transpose(-3, -2).flatten(-2)
        assert_close(cells, cells[..., :1].expand_as(cells))  # the places of a cell share one key
