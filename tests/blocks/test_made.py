"""Made scenes on stage: pictures and masks that agree, noise by hand, edits and taps as in any run, spoilt weights."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from tests.tiny import tiny_sd
from tests.toys import Dim
from workbench.blocks.made import CELLS, LAYOUT, Staged, made_scenes, spoil, world_of
from workbench.blocks.world import World
from workbench.core.ask import Ask
from workbench.core.errors import AskError, MissingPart, Stopped
from workbench.core.patch import Patch, fingerprint
from workbench.core.scene import Scene
from workbench.core.tape import Step
from workbench.methods.generate.diffuse import Diffuse

WORLD = World.load()


def staged(levels: tuple[float, ...] = (0.3, 0.6), *edits) -> Staged:
    scene = Scene(tiny_sd(), Diffuse(), edits, Ask(prompts=["unused"]))
    pictures = torch.cat([made.picture for made in made_scenes(WORLD, 2, False, size=16)])
    return Staged.of(scene, pictures, ["a cat", "the red dog"], levels, 7)


@pytest.mark.parametrize("two", [False, True])
def test_scenes_follow_from_the_seed_and_say_what_they_show(two: bool) -> None:
    made, longer = made_scenes(WORLD, 3, two, 5), made_scenes(WORLD, 4, two, 5)
    for one, same in zip(made, longer[:3], strict=True):
        assert torch.equal(one.picture, same.picture)
        assert len(one.objects) == 1 + two
        assert len(one.masks) == 1 + two
        assert all(label in one.caption and label not in one.bare for label in one.objects)
        assert one.bare.endswith("background")
    assert made_scenes(WORLD, 3, two, 6)[0].caption != made[0].caption


def test_masks_cover_what_differs_from_the_ground_and_leave_out_its_border() -> None:
    for made in made_scenes(WORLD, 6, False, 1):
        picture = made.picture[0].permute(1, 2, 0).numpy().astype(int)
        drawn = torch.from_numpy(np.abs(picture - picture[0, 0]).sum(-1) > 40).float()
        share = torch.nn.functional.interpolate(drawn[None, None], (CELLS, CELLS), mode="area")[0, 0]
        assert (share[made.masks[0] & made.kept] == 1).float().mean() > 0.5  # a drawing may hold the ground's colour
        assert (share[~made.masks[0] & made.kept] <= 0.25).all()  # a pixel of four, hardly there
        assert not made.kept.all()
        rows, columns = made.masks[0].nonzero().T
        most = max(rows.max() - rows.min(), columns.max() - columns.min()) + 1
        assert most <= LAYOUT.small[1] * CELLS + 2


def test_objects_of_a_pair_stand_apart() -> None:
    for made in made_scenes(WORLD, 4, True, 2):
        left, right = (mask.nonzero()[:, 1].float().mean() for mask in made.masks)
        assert left < right
        assert not (made.masks[0] & made.masks[1]).any()


@torch.no_grad()
def test_each_level_is_the_picture_noised_by_hand() -> None:
    bundle, calls, steps = tiny_sd(), [], []
    with Patch(bundle) as patch:
        patch.wrap("predict", lambda inner: lambda x, t, cond: (calls.append((x, t, cond)), inner(x, t, cond))[1])
        images = staged().run(tap=steps.append)
    assert images is not None
    assert torch.equal(images, staged().pictures)
    clean = bundle.encode(images / 127.5 - 1)
    alphas = bundle.scheduler("ddim", 2).alphas_cumprod.double()
    generators = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    for (x, t, cond), level in zip(calls, (0.6, 0.3), strict=True):
        noise: Tensor = torch.cat([torch.randn(1, 4, 8, 8, generator=generator) for generator in generators])
        a = alphas[round(level * 999)]
        assert t.tolist() == [round(level * 999)] * 2
        assert_close(x.double(), a.sqrt() * clean.double() + (1 - a).sqrt() * noise.double(), atol=1e-5, rtol=0)
        assert cond.roles == ("cond", "cond")
        assert cond.text.ids.tolist() == bundle.read(["a cat", "the red dog"]).ids.tolist()
    assert [(step.index, step.total, step.level) for step in steps] == [(0, 2, 599.0), (1, 2, 300.0)]


def test_edits_are_in_force_and_gone_again_and_a_tap_may_stop() -> None:
    outputs: list[Tensor] = []

    def spy(inner):
        def predict(*args):
            outputs.append(inner(*args))
            return outputs[-1]

        return predict

    staged().run()
    before = fingerprint(tiny_sd())
    for edits in ((), (Dim(factor=0.5),)):
        staged((0.5,), *edits).run(record=lambda patch: patch.wrap("predict", spy))
    assert_close(outputs[1], 0.5 * outputs[0])

    def stop(step: Step) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        staged().run(tap=stop)
    assert fingerprint(tiny_sd()) == before


def test_pictures_must_be_as_many_as_prompts() -> None:
    scene = Scene(tiny_sd(), Diffuse(), (), Ask(prompts=["a"]))
    with pytest.raises(AskError, match="There are 2 pictures and 1 prompts"):
        dataclasses.replace(staged(), ask=Ask(prompts=["a"])).run()
    assert scene is not None


def test_spoilt_weights_are_the_same_numbers_elsewhere_and_come_back() -> None:
    bundle = tiny_sd()
    kept = {name: weight.clone() for name, weight in bundle.parts["unet"].named_parameters()}
    text = bundle.read(["a cat"]).states
    with Patch(bundle) as patch:
        spoil(bundle, patch)
        for name, weight in bundle.parts["unet"].named_parameters():
            assert torch.equal(weight.flatten().sort().values, kept[name].flatten().sort().values)
        moved = [not torch.equal(weight, kept[name]) for name, weight in bundle.parts["unet"].named_parameters()]
        assert sum(moved) > len(moved) / 2  # norms are constant
        assert torch.equal(bundle.read(["a cat"]).states, text)  # the text is still understood
    for name, weight in bundle.parts["unet"].named_parameters():
        assert torch.equal(weight, kept[name])


def test_a_model_without_a_world_is_refused() -> None:
    with pytest.raises(MissingPart, match="tiny-sd has no world of its own"):
        world_of(tiny_sd())
    assert world_of(dataclasses.replace(tiny_sd(), world=WORLD)) is WORLD
