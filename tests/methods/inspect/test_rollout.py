"""Rollout: the product of layers written with loops, maps over patches, pictures from a model or from a file."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.clip import seen_sd, tiny_clip
from workbench.core.ask import Ask
from workbench.core.errors import AskError, MissingPart
from workbench.core.patch import fingerprint
from workbench.core.report import Heat
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.inspect.rollout import Rollout

ASK = Ask(prompts=["a cat", "the red dog"], seeds=[1, 2])


def scene(**more: object) -> Scene:
    return Scene(seen_sd(), Diffuse(steps=2), (), ASK.but(**more))


@torch.no_grad()
def test_it_equals_the_product_of_layers_by_loops() -> None:
    images = scene().run()
    model = tiny_clip().parts["clip"]
    states: list[torch.Tensor] = []
    hooks = [layer.layer_norm1.register_forward_hook(lambda m, a, out: states.append(out))
             for layer in model.vision_model.encoder.layers]  # fmt: skip
    tiny_clip().encode(images / 127.5 - 1)
    for hook in hooks:
        hook.remove()
    flow = np.eye(17)[None].repeat(2, 0)
    for layer, state in zip(model.vision_model.encoder.layers, states, strict=True):
        both = (layer.self_attn.q_proj(state), layer.self_attn.k_proj(state))
        q, k = (value.double().unflatten(-1, (2, 12)).transpose(1, 2) for value in both)
        mean = (q @ k.mT / 12**0.5).softmax(-1).mean(1).numpy()
        for image in range(2):
            rows = [(mean[image, i] + np.eye(17)[i]) / (mean[image, i] + np.eye(17)[i]).sum() for i in range(17)]
            flow[image] = np.stack(rows) @ flow[image]
    report = Rollout().look(scene())
    assert report.problems() == []
    for slow, heat in zip(flow[:, 0, 1:], report.panels, strict=True):
        assert isinstance(heat, Heat)
        assert np.allclose(heat.values, slow.reshape(4, 4), atol=1e-6)
    assert 0 < report.numbers["evenness"] <= 1


def test_a_scorer_looks_at_a_file(tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    looked = Rollout().look(Scene(tiny_clip(), Diffuse(), (), Ask(prompts=["a cat"], image=tmp_path / "red.png")))
    assert looked.panels[0].values.shape == (4, 4)  # type: ignore[union-attr]
    with pytest.raises(AskError, match=r"tiny-clip draws no pictures\. Give it one"):
        Rollout().look(Scene(tiny_clip(), Diffuse(), (), Ask(prompts=["a cat"])))


def test_a_model_that_is_no_scorer_is_refused_before_drawing() -> None:
    import dataclasses

    odd = dataclasses.replace(seen_sd(), opener=lambda name: seen_sd())
    with pytest.raises(MissingPart, match="emoji-scorer is of family unet; a scorer is of family clip"):
        Rollout().look(Scene(odd, Diffuse(), (), ASK))


def test_looking_leaves_the_scorer_as_it_was() -> None:
    Rollout().look(scene())
    before = fingerprint(tiny_clip())
    Rollout().look(scene())
    assert fingerprint(tiny_clip()) == before
