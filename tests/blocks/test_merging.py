"""Merging inside a network: transparent for what surrounds the parts, on UNets and joint transformers alike."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from tests.joint import Glance, joint_bundle
from tests.tiny import tiny_sd
from workbench.blocks.denoise import condition
from workbench.blocks.merging import Draw, Merger, Plan, Spot, by_seed, merge_sites
from workbench.blocks.recorder import Recorder, token_maps
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle, Condition
from workbench.core.errors import AskError, MissingPart, PatchError
from workbench.core.patch import Patch, differences, fingerprint
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.reduce.cfg_cutoff import CfgCutoff
from workbench.ops.tokens import Merging, bipartite, tiles

ROOT = Path(__file__).parents[2]
ASK = Ask(prompts=["a cat", "the red dog"], seeds=[1, 2])


def half(x: Tensor, spot: Spot, drawn: Tensor | None) -> Merging:
    height, width = spot.grid
    cells = torch.zeros(len(x), (height // 2) * (width // 2), dtype=torch.long)
    return bipartite(x, tiles(spot.grid, 2, cells), spot.tokens // 2)


def half_at_random() -> tuple[Plan, Draw]:
    def draw(spot: Spot, cond: Condition) -> Tensor:
        return by_seed(spot, cond, "test", lambda generator: torch.randint(4, (spot.tokens // 4,), generator=generator))

    def plan(x: Tensor, spot: Spot, drawn: Tensor | None) -> Merging:
        assert drawn is not None
        return bipartite(x, tiles(spot.grid, 2, drawn), spot.tokens // 2)

    return plan, draw


def nothing(x: Tensor, spot: Spot, drawn: Tensor | None) -> Merging:
    return Merging.of(torch.arange(spot.tokens).expand(len(x), -1), spot.tokens)


def inputs(bundle: Bundle, guided: bool = True) -> tuple[Tensor, Tensor, Condition]:
    cond = condition(bundle, ASK, guided, (16, 16))
    count = len(cond.roles)
    x = torch.randn(count, *bundle.shapes.latent, generator=torch.Generator().manual_seed(0))
    return x, torch.full((count,), 500.0), cond


@torch.no_grad()
def test_a_plan_that_keeps_every_token_changes_nothing() -> None:
    x, t, cond = inputs(tiny_sd())
    plain = tiny_sd().predict(x, t, cond)
    with Patch(tiny_sd()) as patch:
        Merger(tiny_sd(), nothing, parts=("self", "cross", "mlp"), level=2).attach(patch)
        assert torch.equal(tiny_sd().predict(x, t, cond), plain)


@torch.no_grad()
def test_parts_see_fewer_tokens_and_blocks_all_of_them() -> None:
    x, t, cond = inputs(tiny_sd())
    seen: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: Any) -> None:
            seen[name] = tuple(args[0].shape)

        return hook

    site = merge_sites(tiny_sd(), None)[0]
    block = site.module
    with Patch(tiny_sd()) as patch:
        Merger(tiny_sd(), half).attach(patch)
        patch.hook(block.to_q, note("query"), "before")
        patch.hook(block, note("attention"), "before")
        tiny_sd().predict(x, t, cond)
    assert seen == {"query": (4, 32, 16), "attention": (4, 64, 16)}


@torch.no_grad()
def test_an_adapter_inside_a_part_keeps_its_hook() -> None:
    x, t, cond = inputs(tiny_sd())
    module = merge_sites(tiny_sd(), None)[0].module
    with Patch(tiny_sd()) as patch:
        patch.hook(module.to_v, lambda m, args, kwargs, output: output * 3)
        Merger(tiny_sd(), half).attach(patch)
        strong = tiny_sd().predict(x, t, cond)
    with Patch(tiny_sd()) as patch:
        Merger(tiny_sd(), half).attach(patch)
        assert (tiny_sd().predict(x, t, cond) - strong).abs().max() > 1e-3


@torch.no_grad()
def test_outside_of_predict_the_network_is_as_it_was() -> None:
    x, t, cond = inputs(tiny_sd())
    unet = tiny_sd().parts["unet"]
    plain = unet(x, t, cond.text.states, return_dict=False)[0]
    before = fingerprint(tiny_sd())
    with Patch(tiny_sd()) as patch:
        Merger(tiny_sd(), half).attach(patch)
        assert torch.equal(unet(x, t, cond.text.states, return_dict=False)[0], plain)
        tiny_sd().predict(x, t, cond)
        assert torch.equal(unet(x, t, cond.text.states, return_dict=False)[0], plain)
    assert differences(before, fingerprint(tiny_sd())) == []


@torch.no_grad()
@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_joint_attention_merges_the_pictures_tokens_and_leaves_the_texts(name: str) -> None:
    bundle = joint_bundle(name)
    x, t, cond = inputs(bundle, guided=False)
    plain = bundle.predict(x, t, cond)
    with Patch(bundle) as patch:
        Merger(bundle, nothing).attach(patch)
        assert_close(bundle.predict(x, t, cond), plain, atol=1e-5, rtol=0)
    lengths: list[int] = []
    with Patch(bundle) as patch:
        Merger(bundle, half).attach(patch)
        for site in bundle.sites("self-attention"):
            patch.attend(site, lambda call: (lengths.append(call.query.shape[-2]), call.run())[1])
        found = bundle.predict(x, t, cond)
    assert set(lengths) == {8 + 12}
    assert (found - plain).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_a_recorder_sees_joint_maps_unmerged(name: str) -> None:
    bundle, recorder = joint_bundle(name), Recorder()
    recorder.attention(bundle.sites("self-attention"), "maps", token_maps)

    def record(patch: Patch) -> None:
        Merger(bundle, half).attach(patch)
        recorder.attach(patch)

    Scene(bundle, Glance(), (), ASK).run(record=record)
    maps = recorder.taken("maps", bundle.sites("self-attention")[0])
    assert maps.shape[:3] == (2, 2, 16 + 12)


def test_word_maps_keep_the_full_grid_under_merged_cross_attention() -> None:
    sites = [site for site in tiny_sd().sites("cross-attention") if site.level == 0]
    recorder, plain = Recorder(), Recorder()

    def record(patch: Patch) -> None:
        Merger(tiny_sd(), half, parts=("self", "cross")).attach(patch)
        recorder.attach(patch)

    for each in (recorder, plain):
        each.attention(sites, "maps", token_maps)
    scene = Scene(tiny_sd(), Diffuse(steps=2), (), ASK)
    scene.run(record=record)
    scene.run(record=plain.attach)
    for site in sites:
        maps = recorder.taken("maps", site)
        assert maps.shape == plain.taken("maps", site).shape == (2, 2, 64, 77)
        assert_close(maps.sum(-1), torch.ones(2, 2, 64))
        assert len(maps[0, 0].unique(dim=0)) <= 32  # merged places share a row


@torch.no_grad()
def test_the_picture_of_a_row_does_not_depend_on_its_mates() -> None:
    x, t, cond = inputs(tiny_sd())
    with Patch(tiny_sd()) as patch:
        Merger(tiny_sd(), half).attach(patch)
        whole = tiny_sd().predict(x, t, cond)
        for row in range(4):
            alone = tiny_sd().predict(x[row : row + 1], t[:1], cond.rows([row]))
            assert_close(alone, whole[row : row + 1], atol=1e-5, rtol=0)


def test_an_edit_that_asks_for_other_rows_gets_plans_for_them() -> None:
    sampler, cut = Diffuse(steps=3, guidance=3.0), CfgCutoff(stop=0.4)

    def record(patch: Patch) -> None:
        plan, draw = half_at_random()
        Merger(tiny_sd(), plan, draw=draw).attach(patch)

    inside = Scene(tiny_sd(), sampler, (cut,), ASK).run(record=record)  # the merger sees all rows, the network half
    with Patch(tiny_sd()) as patch:
        record(patch)
        outside = Scene(tiny_sd(), sampler, (cut,), ASK).run()
    assert torch.equal(inside, outside)


COMPILED = """
import torch
from tests.blocks.test_merging import half_at_random, inputs
from tests.tiny import tiny_sd
from workbench.blocks.merging import Merger
from workbench.core.patch import Patch

torch.set_grad_enabled(False)
x, t, cond = inputs(tiny_sd())
frames = []
count = lambda graph, example: (frames.append(graph), graph)[1]
compiled = torch.compile(tiny_sd().parts["unet"], backend=count, fullgraph=True, dynamic=False)
fast = lambda inner: lambda x, t, cond: compiled(x, t, cond.text.states, return_dict=False)[0]
found = []
plan, draw = half_at_random()
for wrap in (fast, lambda inner: inner):
    with Patch(tiny_sd()) as patch:
        patch.wrap("predict", wrap)
        Merger(tiny_sd(), plan, draw=draw).attach(patch)
        found.append(torch.stack([tiny_sd().predict(x + shift, t, cond) for shift in (0.0, 0.1, 0.2)]))
assert len(frames) == 1, f"{len(frames)} graphs"
assert (found[0] - found[1]).abs().max() < 1e-5
"""


@pytest.mark.slow
def test_a_compiled_network_is_one_graph_and_is_not_traced_again() -> None:
    # in a process of its own: the checker of shapes that the tests switch on cannot be traced
    done = subprocess.run([sys.executable, "-c", COMPILED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@torch.no_grad()
def test_a_masked_self_attention_is_refused() -> None:
    x, t, cond = inputs(tiny_sd())
    site = merge_sites(tiny_sd(), None)[0]
    block = next(b for b in tiny_sd().sites("block") if site.path.startswith(b.path))
    mask = torch.zeros(4, 1, 64)
    with Patch(tiny_sd()) as patch:
        Merger(tiny_sd(), half).attach(patch)
        patch.hook(block.module, lambda m, args, kwargs: (args, {**kwargs, "attention_mask": mask}), "before")
        with pytest.raises(PatchError, match="is given a mask over its tokens, which cannot be merged"):
            tiny_sd().predict(x, t, cond)


def test_models_and_levels_without_such_attention_are_refused() -> None:
    from tests.clip import tiny_clip

    bundle = tiny_clip()
    if not bundle.sites("self-attention"):
        with pytest.raises(MissingPart, match="has none"):
            merge_sites(bundle, None)
    deep = Bundle(
        "deep", "unet", "d", {}, tiny_sd().shapes, tiny_sd().seams,
        tuple(site for site in tiny_sd().all_sites if site.level))  # fmt: skip
    with pytest.raises(AskError, match="up to level 0; deep has self-attention at level 1"):
        merge_sites(deep, 0)
    assert {site.level for site in merge_sites(deep, None)} == {1}
    with pytest.raises(MissingPart, match="bare has none"):
        merge_sites(Bundle("bare", "var", "b", {}, tiny_sd().shapes, tiny_sd().seams), None)
