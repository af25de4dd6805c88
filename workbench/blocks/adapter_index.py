"""Where the modules that an adapter's file names are in a loaded model, whichever program wrote the names.

A name is told apart by its beginning (`unet.`, `lora_te2_`, `base_model.model.` ...), and then dots and underscores
count as the same: `lora_unet_mid_block_attentions_0_proj_in` and `unet.mid_block.attentions.0.proj_in` are one place.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# Module.named_modules and named_parameters carry no types

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from workbench.core.bundle import Bundle

#: Beginnings of names, the longest first, and the part they mean; "" is whatever draws.
_HEADS: tuple[tuple[str, str], ...] = (
    ("base_model_model_text_encoder_2", "text2"), ("base_model_model_text_encoder", "text"),
    ("base_model_model_unet", ""), ("base_model_model_transformer", ""), ("base_model_model", ""),
    ("lora_transformer", ""), ("lora_unet", ""), ("lycoris_unet", ""), ("lycoris", ""),
    ("lora_te1", "text"), ("lora_te2", "text2"), ("lora_te3", "text3"), ("lora_te", "text"),
    ("text_encoder_2", "text2"), ("text_encoder_3", "text3"), ("text_encoder", "text"),
    ("diffusion_model", ""), ("transformer", ""), ("unet", ""),
)  # fmt: skip
_TOWER = "text_model_"


@dataclass(frozen=True)
class Spot:
    """A module found: the stem of its parameters (`part:path`), and whether its name had to be translated."""

    stem: str
    renamed: bool


class Index:
    """The modules of a bundle by every name that a file may give them."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.drawing = next((site.part for site in bundle.all_sites), next(iter(bundle.parts)))
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.own: dict[str, str] = {}
        self.modules: dict[str, nn.Module] = {}
        for part, root in bundle.parts.items():
            for path, module in root.named_modules():
                own = dict(module.named_parameters(recurse=False))
                if path and own:
                    self.modules[f"{part}:{path}"] = module
                    self.own[f"{part}:{_flat(path)}"] = f"{part}:{path}"
                    self.shapes |= {f"{part}:{path}.{name}": tuple(value.shape) for name, value in own.items()}
        self.other: Mapping[str, str] = {} if bundle.aliases is None else bundle.aliases()

    def find(self, name: str) -> Spot | None:
        """The module that a file's name means, or None."""
        flat = _flat(name)
        for head, part in _HEADS:
            if flat.startswith(f"{head}_"):
                spot = self._within(part or self.drawing, flat.removeprefix(f"{head}_"))
                if spot is not None:
                    return spot
        parts = (self.drawing, *(part for part in self.bundle.parts if part != self.drawing))
        bare = flat.removeprefix("base_model_model_")
        return next((spot for part in parts if (spot := self._within(part, bare)) is not None), None)

    def _within(self, part: str, flat: str) -> Spot | None:
        for text, renamed in ((flat, False), (flat.removeprefix(_TOWER), True), (f"{_TOWER}{flat}", True)):
            if f"{part}:{text}" in self.own:
                return Spot(self.own[f"{part}:{text}"], renamed)
        other = self.other.get(f"{part}:{flat}")
        return None if other is None else Spot(other, True)


def _flat(name: str) -> str:
    return name.replace(".", "_")
