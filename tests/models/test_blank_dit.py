"""Full-size transformers without files: as many numbers as the published ones, counted by hand, and tiny runs."""

from dataclasses import replace

import pytest
import torch

from workbench.core.ask import Ask
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse
from workbench.models import blank_dit
from workbench.models.blank import blank


def line(wide: int, high: int) -> int:
    """Numbers of a matrix with its bias."""
    return wide * high + high


def both(wide: int, d: int) -> int:
    """Of an embedding of two layers."""
    return line(wide, d) + line(d, d)


def mlp(d: int) -> int:
    return line(d, 4 * d) + line(4 * d, d)


def pixart(d: int = 1152) -> int:
    sizes = 2 * both(256, d // 3)
    block = 8 * line(d, d) + mlp(d) + 6 * d
    return line(16, d) + both(4096, d) + both(256, d) + sizes + line(d, 6 * d) + 28 * block + 2 * d + line(d, 32)


def sd3(d: int = 1536) -> int:
    """The last block says no more of the text, so it has neither its output nor its mlp."""
    stream = line(d, 6 * d) + 4 * line(d, d) + mlp(d)
    last = stream + line(d, 2 * d) + 3 * line(d, d)
    ends = line(64, d) + line(4096, d) + both(256, d) + both(2048, d) + line(d, 2 * d) + line(d, 64)
    return ends + 23 * 2 * stream + last


def flux(d: int = 3072) -> int:
    double = 2 * (line(d, 6 * d) + 4 * line(d, d) + 2 * 128 + mlp(d))
    single = line(d, 3 * d) + 3 * line(d, d) + 2 * 128 + line(d, 4 * d) + line(5 * d, d)
    ends = line(64, d) + line(4096, d) + 2 * both(256, d) + both(768, d) + line(d, 2 * d) + line(d, 64)
    return ends + 19 * double + 38 * single


@pytest.mark.parametrize(
    ("kind", "network", "autoencoder", "attentions", "text"),
    [("pixart", pixart(), 83_653_863, 28, (120, 4096)), ("sd3", sd3(), 83_819_683, 24, (333, 4096)),
     ("flux", flux(), 83_819_683, 57, (512, 4096))],
)  # fmt: skip
def test_they_have_as_many_numbers_as_the_published_ones(kind, network: int, autoencoder: int, attentions: int,
                                                         text: tuple[int, int]) -> None:  # fmt: skip
    """0.61, 2.03 and 11.9 thousand million in the networks; 4,096 tokens at 1,024 pixels."""
    bundle = blank(kind, device="meta", dtype=torch.bfloat16)
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in bundle.parts.items()}
    assert counts == {"transformer": network, "vae": autoencoder}
    assert bundle.dtype == torch.bfloat16
    assert {site.tokens for site in bundle.sites("self-attention")} == {4096}
    assert len(bundle.sites("self-attention")) == attentions
    assert bundle.shapes.text == text
    assert bundle.shapes.image == (3, 1024, 1024)


SMALL = {
    "pixart": {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 12, "cross_attention_dim": 24},
    "sd3": {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 8, "caption_projection_dim": 16},
    "flux": {"num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2, "attention_head_dim": 128},
}


@pytest.mark.parametrize("kind", SMALL)
def test_they_draw_and_repeat_themselves(kind, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer and narrower blocks, 32 pixels."""
    plan = blank_dit.PLANS[kind]
    monkeypatch.setitem(blank_dit.PLANS, kind, replace(plan, network={**plan.network, **SMALL[kind]}))
    bundle = blank(kind, seed=1)
    scene = Scene(bundle, Diffuse(steps=2, scheduler="euler"), (), Ask(prompts=["a cat"], seeds=[1], size=(32, 32)))
    first = scene.run()
    assert first.shape == (1, 3, 32, 32)
    assert torch.equal(first, scene.run())
    assert not torch.equal(first, scene.run(ask=Ask(prompts=["a dog"], seeds=[2], size=(32, 32))))
