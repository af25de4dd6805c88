"""Names that other programs give to the modules of a network, worked out from its own layout.

Stable Diffusion's first programs number a UNet's blocks in one row (`input_blocks.4.1`, `middle_block.0`,
`output_blocks.5.2`), and adapters for SDXL are commonly written so; diffusers nests them by level.
"""

from collections.abc import Iterator
from typing import Any

_RESNET = {"norm1": "in_layers_0", "conv1": "in_layers_2", "time_emb_proj": "emb_layers_1", "norm2": "out_layers_0",
           "conv2": "out_layers_3", "conv_shortcut": "skip_connection"}  # fmt: skip
_ENDS = {"conv_in": "input_blocks_0_0", "time_embedding.linear_1": "time_embed_0",
         "time_embedding.linear_2": "time_embed_2", "add_embedding.linear_1": "label_emb_0_0",
         "add_embedding.linear_2": "label_emb_0_2", "conv_norm_out": "out_0", "conv_out": "out_2"}  # fmt: skip


def unet_names(unet: Any, part: str = "unet") -> dict[str, str]:
    """`part:name` with underscores, as programs of the first generation say it, to `part:path` of a UNet here."""
    moved = {**_ENDS, **dict(_down(unet)), **dict(_middle(unet)), **dict(_up(unet))}
    found: dict[str, str] = {}
    for path, _ in unet.named_modules():
        head = next((head for head in _heads(path) if head in moved), None)
        if head is not None:
            rest = path[len(head) :].lstrip(".").replace(".", "_")
            found[f"{part}:{'_'.join(word for word in (moved[head], rest) if word)}"] = f"{part}:{path}"
    return found


def _heads(path: str) -> Iterator[str]:
    """A path and its beginnings, the longest first."""
    words = path.split(".")
    return (".".join(words[:count]) for count in range(len(words), 0, -1))


def _resnet(here: str, there: str) -> Iterator[tuple[str, str]]:
    yield from ((f"{here}.{ours}", f"{there}_{theirs}") for ours, theirs in _RESNET.items())


def _down(unet: Any) -> Iterator[tuple[str, str]]:
    row = 1
    for level, block in enumerate(unet.down_blocks):
        here = f"down_blocks.{level}"
        for layer in range(len(block.resnets)):
            yield from _resnet(f"{here}.resnets.{layer}", f"input_blocks_{row}_0")
            yield f"{here}.attentions.{layer}", f"input_blocks_{row}_1"
            row += 1
        if getattr(block, "downsamplers", None):
            yield f"{here}.downsamplers.0.conv", f"input_blocks_{row}_0_op"
            row += 1


def _middle(unet: Any) -> Iterator[tuple[str, str]]:
    if unet.mid_block is None:
        return
    yield from _resnet("mid_block.resnets.0", "middle_block_0")
    yield "mid_block.attentions.0", "middle_block_1"
    yield from _resnet("mid_block.resnets.1", "middle_block_2")


def _up(unet: Any) -> Iterator[tuple[str, str]]:
    row = 0
    for level, block in enumerate(unet.up_blocks):
        here, attends = f"up_blocks.{level}", bool(getattr(block, "attentions", None))
        for layer in range(len(block.resnets)):
            yield from _resnet(f"{here}.resnets.{layer}", f"output_blocks_{row}_0")
            yield f"{here}.attentions.{layer}", f"output_blocks_{row}_1"
            if layer == len(block.resnets) - 1 and getattr(block, "upsamplers", None):
                yield f"{here}.upsamplers.0.conv", f"output_blocks_{row}_{1 + attends}_conv"
            row += 1
