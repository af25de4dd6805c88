"""Tiny random transformers of diffusers (SD3, FLUX, PixArt) as bundles just large enough for lenses and recorder.

The adapters are of the tests: they read prompts through a random table, draw in two steps of nothing in particular,
and name the attention sites as a loader of these families would.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from diffusers import FluxTransformer2DModel, PixArtTransformer2DModel, SD3Transformer2DModel
from torch import Tensor

from tests.tiny import tokenizer
from tests.toys import card, unlisted
from workbench.core.bundle import Bundle, Condition, Seams, Shapes, Site, TextStates
from workbench.core.method import Sampler
from workbench.core.tape import Ended, Started, Step, Tap

SIDE, LENGTH, WIDTH = 8, 12, 16


def seeded(make: Callable[[], Any]) -> Any:
    """A module whose random weights follow from seed 0, ready to be looked at."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = make()
        with torch.no_grad():  # modulation starts at zero in some: random weights make every branch count
            for weight in made.parameters():
                if not weight.any():
                    weight.normal_(0, 0.2)
    return made.eval().requires_grad_(False)


def sd3() -> Any:
    """SD3: joint attention, picture first, text last, keys and queries normalised; 16 picture tokens."""
    return seeded(lambda: SD3Transformer2DModel(
        sample_size=SIDE, patch_size=2, in_channels=4, num_layers=4, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=WIDTH, caption_projection_dim=16, pooled_projection_dim=12, out_channels=4,
        pos_embed_max_size=8, qk_norm="rms_norm"))  # fmt: skip


def flux() -> Any:
    """FLUX: joint attention, text first, rotary positions, then blocks with one stream; 16 picture tokens."""
    return seeded(lambda: FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=4, num_single_layers=1, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=WIDTH, pooled_projection_dim=12, axes_dims_rope=(4, 6, 6)))  # fmt: skip


def pixart() -> Any:
    """PixArt: self-attention and masked cross-attention; 16 picture tokens."""
    return seeded(lambda: PixArtTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, num_layers=2,
        cross_attention_dim=16, sample_size=SIDE, patch_size=2, caption_channels=10,
        use_additional_conditions=False))  # fmt: skip


def pack(x: Tensor) -> Tensor:
    """Latents [B, 4, h, w] to FLUX's tokens [B, hw / 4, 16]."""
    b, c, h, w = x.shape
    return x.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, 4 * c)


def unpack(tokens: Tensor, shape: Sequence[int]) -> Tensor:
    """FLUX's tokens back to latents."""
    b, c, h, w = shape
    return tokens.view(b, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(b, c, h, w)


def picture_ids(side: int = SIDE // 2) -> Tensor:
    """FLUX's positions of picture tokens: (0, row, column)."""
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).reshape(-1, 3).float()


def predict_sd3(model: Any, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
    """SD3's raw network."""
    return model(x, cond.text.states, cond.text.pooled, t, return_dict=False)[0]


def predict_flux(model: Any, x: Tensor, t: Tensor, cond: Condition) -> Tensor:
    """FLUX's raw network; as many text positions as there are text states."""
    ids = torch.zeros(cond.text.states.shape[1], 3)
    tokens = model(pack(x), cond.text.states, cond.text.pooled, t / 1000, picture_ids(), ids, return_dict=False)[0]
    return unpack(tokens, x.shape)


@unlisted
class Glance(Sampler):
    """Two steps against the prediction, without guidance."""

    card: ClassVar = card("toy-glance", families=("any",))

    def sample(self, bundle: Bundle, ask: Any, tap: Tap) -> Tensor:
        """x -> x - e / 4, twice."""
        from workbench.blocks.denoise import condition

        x = torch.cat(
            [torch.randn(1, *bundle.shapes.latent, generator=torch.Generator().manual_seed(s)) for s in ask.seeds]
        )
        cond = condition(bundle, ask, False, (SIDE, SIDE))
        bundle.tell(Started(2, ask.seeds))
        try:
            with torch.no_grad():
                for index in range(2):
                    now = Condition(cond.text, cond.seeds, cond.roles, Step(index, 2, 500.0, x))
                    x = x - bundle.predict(x, torch.full((len(x),), 500.0), now) / 4
                    tap(Step(index, 2, 500.0, x, x))
        finally:
            bundle.tell(Ended())
        return ((bundle.decode(x).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def joint_bundle(name: str) -> Bundle:
    """A bundle of family mmdit over the tiny SD3 or FLUX transformer."""
    model, predict = (sd3(), predict_sd3) if name == "sd3" else (flux(), predict_flux)
    table = torch.randn(len(tokenizer()), WIDTH, generator=torch.Generator().manual_seed(1))

    def read(prompts: Sequence[str]) -> TextStates:
        ids = tokenizer()(list(prompts), padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt")
        states = table[ids.input_ids]
        return TextStates(states, pooled=states.mean(1)[:, :12], ids=ids.input_ids)

    seams = Seams(
        read=read, predict=lambda x, t, cond: predict(model, x, t, cond), guide=lambda p, n, scale, cond: p,
        advance=lambda x, *_: (x, x), decode=lambda x: x[:, :3].tanh())  # fmt: skip
    where = "last" if name == "sd3" else "first"
    sites = tuple(
        Site(
            "transformer", f"transformer_blocks.{i}.attn", "self-attention", block.attn, tokens=16, heads=2, text=where
        )
        for i, block in enumerate(model.transformer_blocks)
    )
    shapes = Shapes((4, SIDE, SIDE), (3, SIDE, SIDE), (LENGTH, WIDTH), multiple=1)
    return Bundle(f"tiny-{name}", "mmdit", name, {"transformer": model}, shapes, seams, sites)
