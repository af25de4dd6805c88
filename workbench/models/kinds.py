"""Which diffusers pipelines are read, by which reader, and what each part of theirs may be."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType

from workbench.core.bundle import Family
from workbench.models import flux, pixart, sd3, unet

_VAE = ("AutoencoderKL", "AutoencoderTiny")
_CLIP_WORDS = ("CLIPTokenizer", "CLIPTokenizerFast")
_T5_WORDS = ("T5Tokenizer", "T5TokenizerFast")
_CLIP, _CLIP_PROJECTED, _T5 = ("CLIPTextModel",), ("CLIPTextModelWithProjection",), ("T5EncoderModel",)


@dataclass(frozen=True)
class Kind:
    """Pipelines of one architecture: family, reader, and the classes that each part may be; some parts may lack."""

    family: Family
    reader: ModuleType
    parts: Mapping[str, tuple[str, ...]]
    optional: tuple[str, ...] = ()

    @property
    def pipelines(self) -> tuple[str, ...]:
        """diffusers' classes that are read so."""
        return self.reader.PIPELINES


SD = Kind(
    "unet", unet,
    {"unet": ("UNet2DConditionModel",), "vae": _VAE, "tokenizer": _CLIP_WORDS, "text_encoder": _CLIP,
     "tokenizer_2": _CLIP_WORDS, "text_encoder_2": _CLIP_PROJECTED},
    optional=("text_encoder_2", "tokenizer_2"))  # fmt: skip
SD3 = Kind(
    "mmdit", sd3,
    {"transformer": ("SD3Transformer2DModel",), "vae": _VAE, "text_encoder": _CLIP_PROJECTED,
     "text_encoder_2": _CLIP_PROJECTED, "text_encoder_3": _T5, "tokenizer": _CLIP_WORDS, "tokenizer_2": _CLIP_WORDS,
     "tokenizer_3": _T5_WORDS},
    optional=("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3"),
)  # fmt: skip
PIXART = Kind(
    "dit", pixart,
    {"transformer": ("PixArtTransformer2DModel", "Transformer2DModel"), "vae": _VAE, "text_encoder": _T5,
     "tokenizer": _T5_WORDS})  # fmt: skip
FLUX = Kind(
    "mmdit", flux,
    {"transformer": ("FluxTransformer2DModel",), "vae": _VAE, "text_encoder": _CLIP, "text_encoder_2": _T5,
     "tokenizer": _CLIP_WORDS, "tokenizer_2": _T5_WORDS})  # fmt: skip
KINDS = (SD, SD3, PIXART, FLUX)
PIPELINES = tuple(name for kind in KINDS for name in kind.pipelines)
#: Every part that any kind has.
PARTS = tuple(dict.fromkeys(part for kind in KINDS for part in kind.parts))


def kind_of(cls: str) -> Kind | None:
    """The kind of a pipeline by its class's name, None for one that is not read here."""
    return next((kind for kind in KINDS if cls in kind.pipelines), None)


def needed(cls: str) -> tuple[str, ...]:
    """The parts that a pipeline cannot do without."""
    kind = kind_of(cls) or SD
    xl = kind is SD and "XL" in cls
    return tuple(part for part in (*kind.parts, "scheduler") if part not in kind.optional or xl)
