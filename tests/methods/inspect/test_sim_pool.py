"""SimPool map: the equation by loops, a file that must be there and belong to the scorer."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.clip import seen_sd, tiny_clip
from workbench.blocks.simpool import FILE, SimPool
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.errors import MissingPart
from workbench.core.report import Heat
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.inspect.sim_pool import SimPoolMap, patch_features
from workbench.models.scorer import Look

ASK = Ask(prompts=["a cat", "the red dog"], seeds=[1, 2])


@pytest.fixture
def pooled(tmp_path: Path) -> Bundle:
    """The tiny model whose scorer has a (random) pooling in its folder."""
    pool = SimPool(24, 12)
    for name, weight in pool.named_parameters():
        if name in ("query.weight", "key.weight"):
            weight.data.mul_(5)
    save_file(pool.state_dict(), tmp_path / FILE, metadata={"digest": tiny_clip().digest})
    scorer = dataclasses.replace(tiny_clip(), source=str(tmp_path))
    return dataclasses.replace(seen_sd(), opener=lambda name: scorer)


@torch.no_grad()
def test_the_map_is_the_equation_by_loops(pooled: Bundle) -> None:
    scene = Scene(pooled, Diffuse(steps=2), (), ASK)
    scorer, images = pooled.open("emoji-scorer"), scene.run()
    model = scorer.parts["clip"]
    features = model.vision_model(pixel_values=Look(32)(images / 127.5 - 1)).last_hidden_state[:, 1:]
    assert torch.equal(patch_features(scorer, images), features)
    weights = {k: v.double().numpy() for k, v in weights_of(scorer).items()}
    report = SimPoolMap().look(scene)
    assert report.problems() == []
    for x, heat in zip(features.double().numpy(), report.panels, strict=True):
        q = weights["query.weight"] @ x.mean(0)
        logits = []
        for row in x:
            normed = (row - row.mean()) / np.sqrt(row.var() + 1e-5) * weights["norm.weight"] + weights["norm.bias"]
            logits.append(q @ (weights["key.weight"] @ normed) / np.sqrt(24))
        a = np.exp(logits - np.max(logits))
        assert isinstance(heat, Heat)
        assert np.allclose(heat.values, 16 * (a / a.sum()).reshape(4, 4), atol=1e-4)
        assert heat.values.mean() == pytest.approx(1.0, abs=1e-5)


def weights_of(scorer: Bundle) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(Path(scorer.source) / FILE)


def test_without_the_file_it_says_how_to_train_it() -> None:
    with pytest.raises(MissingPart, match=r"tiny-clip has no simpool\.safetensors.*workbench train simpool"):
        SimPoolMap().look(Scene(seen_sd(), Diffuse(steps=1), (), ASK))
