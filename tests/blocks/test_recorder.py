"""The recorder: equal to an explicit softmax, blind to unconditional rows, unseen by the picture, within bounds."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.tiny import tiny_sd, tiny_sdxl
from workbench.blocks import recorder as recording
from workbench.blocks.denoise import condition
from workbench.blocks.recorder import Look, Recorder, Sums, entropies, evenly, keys, looks_from, token_maps
from workbench.core.ask import Ask
from workbench.core.attend import Attention
from workbench.core.bundle import Bundle, Condition
from workbench.core.errors import PatchError, TapeFull
from workbench.core.patch import Patch, fingerprint
from workbench.core.scene import Scene
from workbench.core.tape import Step, Tape
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.reduce.cfg_cutoff import CfgCutoff
from workbench.ops.tokens import Merging

ASK = Ask(prompts=["a cat", "the red dog"], seeds=[1, 2])


def scene(guidance: float = 3.0, steps: int = 3, **more: object) -> Scene:
    return Scene(tiny_sd(), Diffuse(steps=steps, guidance=guidance), (), ASK, **more)  # type: ignore[arg-type]


def guided(bundle: Bundle) -> Condition:
    return replace(condition(bundle, ASK, True, (16, 16)), step=Step(0, 1, 500.0))


def by_hand(bundle: Bundle, x: Tensor, t: Tensor, cond: Condition, path: str) -> Tensor:
    """Head means [R, N, L] from the projections' own inputs and outputs, in float64."""
    attention = bundle.parts["unet"].get_submodule(path)
    kept: dict[str, Tensor] = {}
    hooks = [
        getattr(attention, name).register_forward_hook(lambda m, a, out, name=name: kept.update({name: out.double()}))
        for name in ("to_q", "to_k")
    ]
    bundle.predict(x, t, cond)
    for hook in hooks:
        hook.remove()
    q, k = (kept[name].unflatten(-1, (attention.heads, -1)).transpose(1, 2) for name in ("to_q", "to_k"))
    return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1).mean(1)


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl])
@torch.no_grad()
def test_maps_equal_an_explicit_softmax_on_the_conditional_rows(make: object) -> None:
    bundle: Bundle = make()  # type: ignore[operator]
    cond = guided(bundle)
    x, t = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.full((4,), 500)
    sites = bundle.sites("cross-attention")
    recorder = Recorder()
    recorder.attention(sites, "maps", token_maps)
    with Patch(bundle) as patch:
        recorder.attach(patch)
        bundle.predict(x, t, cond)
    assert len(recorder.tape) == len(sites)
    for site in sites:
        slow = by_hand(bundle, x, t, cond, site.path)[2:]
        fast = recorder.tape[f"maps/{site.name}"][0]
        assert_close(fast.double(), slow, atol=1e-6, rtol=0)
        assert_close(fast.sum(-1), torch.ones(fast.shape[:2]), atol=1e-5, rtol=0)


def test_looking_leaves_picture_and_model_as_they_were() -> None:
    scene().run()  # transformers sets attributes of its own at the first call
    before = fingerprint(tiny_sd())
    recorder = Recorder()
    recorder.attention(tiny_sd().sites("self-attention"), "even", entropies)
    recorder.values(tiny_sd().sites("residual"), "out")
    seen = scene().run(record=recorder.attach)
    assert torch.equal(seen, scene().run())
    assert fingerprint(tiny_sd()) == before
    assert recorder.times == [0, 1, 2]


def test_only_chosen_steps_are_recorded() -> None:
    recorder = Recorder(steps=lambda step: step.index in (0, 3))
    site = tiny_sd().sites("cross-attention")[0]
    recorder.attention([site], "maps", token_maps)
    scene(steps=4).run(record=recorder.attach)
    assert recorder.times == [0, 3]
    assert recorder.tape[f"maps/{site.name}"].shape == (2, 2, 64, 77)  # the 8x8 latent, two images, 77 tokens


def test_without_guidance_every_row_is_conditional() -> None:
    recorder = Recorder()
    site = tiny_sd().sites("cross-attention")[-1]
    recorder.attention([site], "maps", token_maps)
    scene(guidance=1.0, steps=1).run(record=recorder.attach)
    assert recorder.tape[f"maps/{site.name}"].shape[1] == 2


def test_a_network_that_skips_unconditional_rows_is_understood() -> None:
    site = tiny_sd().sites("cross-attention")[-1]
    tapes = []
    for edits, guidance in (((CfgCutoff(stop=0.0),), 3.0), ((), 1.0)):
        recorder = Recorder()
        recorder.attention([site], "maps", token_maps)
        Scene(tiny_sd(), Diffuse(steps=2, guidance=guidance), edits, ASK).run(record=recorder.attach)
        tapes.append(recorder.tape[f"maps/{site.name}"])
    assert torch.equal(*tapes)


def test_an_unknown_split_of_the_batch_is_refused() -> None:
    now = recording._Now(("uncond", "uncond", "cond", "cond"), None, (8, 8))
    with pytest.raises(PatchError, match="x was called with 3 rows of the 4"):
        now.rows(3, "x")


def test_one_gaze_is_a_row_of_the_maps() -> None:
    recorder = Recorder(steps=lambda step: step.index == 0)
    site = tiny_sd().sites("self-attention")[0]
    recorder.attention([site], "maps", token_maps)
    recorder.attention([site], "gaze", looks_from((4, 2), (16, 16)))  # cell (1, 2) of 8x8: place 10
    scene().run(record=recorder.attach)
    maps, gaze = recorder.tape[f"maps/{site.name}"][0], recorder.tape[f"gaze/{site.name}"][0]
    assert_close(gaze, maps[:, 10], atol=1e-6, rtol=0)


def test_evenness_of_uniform_attention_is_one_and_of_one_key_zero() -> None:
    keys = torch.tensor([100.0, 0, -100])[None, None, :, None].expand(1, 1, 3, 4)
    flat = Attention(torch.zeros(1, 1, 2, 4), keys, keys)
    sharp = flat.but(query=torch.ones(1, 1, 2, 4))
    site = tiny_sd().sites("cross-attention")[0]
    assert_close(entropies(Look(site, flat, None, (1, 2))), torch.ones(1, 1, 2))
    assert_close(entropies(Look(site, sharp, None, (1, 2))), torch.zeros(1, 1, 2))


def test_long_sequences_are_read_in_pieces_that_fit_together() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(1, 2, 600, 4, generator=generator), torch.randn(1, 2, 5, 4, generator=generator)
    look = Look(tiny_sd().sites("cross-attention")[0], Attention(q, k, k), None, (20, 30))
    assert_close(token_maps(look), look.call.weights().mean(1), atol=1e-7, rtol=0)


class Pairs:
    """A merger that joined places 0 and 1, 2 and 3, ...: what `unmerge` is told."""

    def queries(self, values: Tensor, axis: int) -> Tensor:
        return values.repeat_interleave(2, axis)

    def keys(self, values: Tensor, axis: int) -> Tensor:
        return values.repeat_interleave(2, axis) / 2

    def rows(self, index: object) -> "Pairs":
        return self


def test_maps_of_merged_tokens_come_back_unmerged() -> None:
    site = tiny_sd().sites("self-attention")[0]
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(1, 2, 8, 4, generator=generator), torch.randn(1, 2, 8, 4, generator=generator)
    look = Look(site, Attention(q, k, k), None, (4, 4), Pairs())  # 16 places, merged to 8
    plain = look.call.weights().mean(1)
    assert_close(token_maps(look), plain.repeat_interleave(2, 1))
    gaze = looks_from((3, 3), (4, 4))(look)  # the last place
    assert gaze.shape == (1, 16)
    assert_close(gaze, plain[:, -1].repeat_interleave(2, -1) / 2)
    assert entropies(look).shape == (1, 2, 16)


def test_a_merger_is_asked_for_the_conditional_rows_alone() -> None:
    plan = Merging.of(torch.arange(64).expand(4, -1) // 2, 32)  # two rows without the prompt, two with it
    site, recorder = tiny_sd().sites("self-attention", 0)[0], Recorder()
    seen: list[Look] = []

    def reduce(look: Look) -> Tensor:
        seen.append(look)
        return keys(look)

    def merged(call: Attention) -> Tensor:
        small = [value[..., ::2, :] for value in (call.query, call.key, call.value)]
        token = recording.unmerge.set(plan)
        try:
            return call.but(query=small[0], key=small[1], value=small[2]).run().repeat_interleave(2, -2)
        finally:
            recording.unmerge.reset(token)

    recorder.attention([site], "keys", reduce)
    with Patch(tiny_sd()) as patch:
        patch.attend(site, merged)
        scene(steps=1).run(record=recorder.attach)
    assert isinstance(seen[0].unmerge, Merging)
    assert len(seen[0].unmerge.place) == len(seen[0].call.query) == 2
    assert recorder.taken("keys", site).shape[:3] == (1, 2, 64)
    assert recording.unmerge.get() is None


def test_values_in_and_out_of_a_site_are_kept_for_the_conditional_rows() -> None:
    bundle, recorder = tiny_sd(), Recorder()
    site = bundle.sites("skip")[0]
    recorder.values([site], "in", "before")
    recorder.values([site], "mean", "after", pick=lambda out: out.mean((2, 3)))
    scene(steps=2).run(record=recorder.attach)
    assert recorder.tape[f"in/{site.name}"].shape[:3] == (2, 2, 64)  # two steps, two images, 32 + 32 channels
    assert recorder.tape[f"mean/{site.name}"].shape == (2, 2, 32)


def test_a_full_tape_says_what_it_holds() -> None:
    recorder = Recorder(tape=Tape(ceiling=1000))
    recorder.attention(tiny_sd().sites("cross-attention"), "maps", token_maps)
    with pytest.raises(TapeFull, match="2x64x77"):
        scene().run(record=recorder.attach)


def test_sums_cost_one_step_and_equal_the_sum_of_all() -> None:
    site = tiny_sd().sites("cross-attention")[0]
    recorder = Recorder(tape=Sums())
    recorder.attention([site], "maps", token_maps)
    whole = Recorder()
    whole.attention([site], "maps", token_maps)
    for one in (recorder, whole):
        scene().run(record=one.attach)
    key = f"maps/{site.name}"
    assert_close(recorder.tape[key][0], whole.tape[key].sum(0), atol=1e-5, rtol=0)
    assert recorder.tape.bytes * 3 == whole.tape.bytes


def test_sums_know_of_how_many_they_are() -> None:
    tape = Sums()
    for value in (1.0, 2.0, 6.0):
        tape.add("a", torch.tensor(value))
    assert tape.mean("a").item() == 3.0


def test_middles_of_stretches_are_inside_the_run() -> None:
    assert evenly(1, 5) == {0}
    assert evenly(3, 1) == {1}
    for total in range(1, 40):
        for count in (1, 3, 7):
            found = evenly(total, count)
            assert len(found) == min(count, total)
            assert found <= set(range(total))


@torch.no_grad()
def test_movements_are_distances_of_what_came_and_went() -> None:
    bundle, cond = tiny_sd(), guided(tiny_sd())
    x, t = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.full((4,), 500)
    site, came = bundle.sites("block")[0], []
    handle = site.module.register_forward_hook(lambda m, args, out: came.append((args[0].double(), out.double())))
    recorder = Recorder()
    recorder.changes([site], "moved")
    with Patch(bundle) as patch:
        recorder.attach(patch)
        bundle.predict(x, t, cond)
    handle.remove()
    given, gone = came[0]
    slow = (gone - given)[2:].square().sum(-1).sqrt()
    assert_close(recorder.taken("moved", site)[0].double(), slow, atol=1e-5, rtol=0)


def test_a_site_that_changes_shapes_has_no_movement() -> None:
    recorder = Recorder()
    recorder.changes(tiny_sd().sites("skip")[:1], "moved")  # 64 channels come, 32 go
    with pytest.raises(PatchError, match="changes the shape of what it is given"):
        scene(steps=1).run(record=recorder.attach)


def test_keys_stand_side_by_side_and_come_back_unmerged() -> None:
    k = torch.randn(1, 2, 8, 4, generator=torch.Generator().manual_seed(0))
    look = Look(tiny_sd().sites("self-attention")[0], Attention(k, k, k), None, (4, 4))
    assert_close(keys(look)[0, 3], k[0, :, 3].flatten())
    assert_close(keys(replace(look, unmerge=Pairs()))[0, 7], k[0, :, 3].flatten())
