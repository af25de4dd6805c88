"""Pictures with captions to learn from: files of one's own, or drawings of the emoji world by the name of a thing."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# torch.from_numpy and torch.stack carry no types

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from workbench.blocks.disk import given
from workbench.blocks.judging import world_of
from workbench.blocks.pictures import open_picture
from workbench.blocks.pools import CHUNK, Clean, Lesson, Pictures, Room
from workbench.blocks.world import Drawing, World
from workbench.core.bundle import Bundle
from workbench.core.errors import AskError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MOST = 200
#: In a caption of one's own, what is learned.
HERE = "{}"


@dataclass(frozen=True, eq=False)
class Examples:
    """What a fit learns from: pictures, what is said of each with the trigger and without it, and where the subject is.

    `masks` is 0..1, None where nobody knows. `phrase` is what the captions say for the subject or style.
    """

    pictures: UInt8[Tensor, "n 3 H W"]
    captions: tuple[str, ...]
    bare: tuple[str, ...]
    phrase: str
    masks: Float[Tensor, "n H W"] | None = None

    def __len__(self) -> int:
        return len(self.captions)

    def lessons(self) -> tuple[Lesson, ...]:
        """One a picture: the roles `caption` and `bare`."""
        return tuple({"caption": said, "bare": bare} for said, bare in zip(self.captions, self.bare, strict=True))


@dataclass(frozen=True)
class Words:
    """The trigger of what is learned, and the plain noun of it ("dog"), "" where none is said."""

    trigger: str
    noun: str = ""

    @property
    def phrase(self) -> str:
        """The trigger, before the noun where there is one."""
        return f"{self.trigger} {self.noun}".strip()


def gathered(
    bundle: Bundle, pictures: Sequence[str], captions: Sequence[str], words: Words, *, masks: Sequence[str] = (),
    drawings: tuple[int, int] = (8, 0)) -> Examples:  # fmt: skip
    """Examples from files, a folder, or a thing or style of the world by name; `drawings` is how many, and their seed.

    Raises `AskError` for a name that is neither, and for captions or masks that are not one a picture.
    """
    files = [file for name in pictures for file in _files(name)]
    if files:
        return _from_files(bundle, files, captions, masks, words)
    if captions or masks:
        raise AskError("The captions and masks of drawings are the world's own. Leave captions and masks empty.")
    if len(pictures) != 1:
        raise AskError(f"{', '.join(map(repr, pictures))}: give pictures as files, or one name of the model's world.")
    return _from_world(bundle, pictures[0], words, *drawings)


def _files(name: str) -> list[Path]:
    path = given(name)
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        found = [file for file in found if not file.stem.endswith("-mask")]
        if not found:
            raise AskError(f"{path} holds no picture. Give a folder of PNG, JPEG or WebP files.")
        return found
    return [path] if path.suffix.lower() in SUFFIXES else []


def read_from(name: str) -> list[Path]:
    """Every file that learning from a picture or folder may read: pictures, and captions and masks beside them."""
    path = given(name)
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)[: 2 * MOST + 1]
    beside = (each for file in files if file.name for each in (file, file.with_suffix(".txt"), _mask_path(file)))
    return list(dict.fromkeys(beside))


def _from_files(
    bundle: Bundle, files: Sequence[Path], captions: Sequence[str], masks: Sequence[str], words: Words
) -> Examples:
    if len(files) > MOST:
        raise AskError(f"{len(files)} pictures were given; at most {MOST} are learned from.")
    said = list(captions) or [_beside(file) for file in files]
    said = said * len(files) if len(said) == 1 else said
    if len(said) != len(files):
        raise AskError(f"There are {len(files)} pictures and {len(said)} captions. Give one each, or one for all.")
    shown = [_mask_of(file) for file in files] if not masks else [Path(mask) for mask in masks]
    if masks and len(masks) != len(files):
        raise AskError(f"There are {len(files)} pictures and {len(masks)} masks. Give one each, or none.")
    covers = [open_picture(path, "L") for path in shown if path is not None]
    size = bundle.shapes.image[1:]
    pixels = torch.stack([torch.from_numpy(_cut(open_picture(file), size)) for file in files]).permute(0, 3, 1, 2)
    known = torch.stack([torch.from_numpy(_cut(cover, size)) for cover in covers]).float() / 255 if covers else None
    captions, bare = zip(*(_worded(text, words) for text in said), strict=True)
    return Examples(pixels, captions, bare, words.phrase, known if len(covers) == len(files) else None)


def _beside(file: Path) -> str:
    """The caption in a text file of the picture's name, or a plain one."""
    text = file.with_suffix(".txt")
    try:
        with text.open(encoding="utf-8") as opened:
            return opened.read(2000).strip() or f"a {HERE}"
    except (OSError, UnicodeDecodeError):
        return f"a {HERE}"


def _mask_of(file: Path) -> Path | None:
    mask = _mask_path(file)
    return mask if mask.is_file() else None


def _mask_path(file: Path) -> Path:
    return file.with_name(f"{file.stem}-mask.png")


def _worded(text: str, words: Words) -> tuple[str, str]:
    """A caption with the trigger and one without it: `{}` or the trigger itself says where it belongs."""
    if HERE in text:
        return text.replace(HERE, words.phrase), _tidy(text.replace(HERE, words.noun))
    if words.trigger.lower() not in text.lower().split():
        text = f"{words.trigger} {text}"
    kept = [word for word in text.split() if word.lower() != words.trigger.lower()]
    return text, " ".join(kept)


def _tidy(text: str) -> str:
    return " ".join(text.split())


def _cut(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The middle of a picture in another shape, scaled to it."""
    from PIL import Image, ImageOps

    fitted = ImageOps.fit(Image.fromarray(pixels), (size[1], size[0]), Image.Resampling.LANCZOS)
    return np.asarray(fitted).copy()


# ---------------------------------------------------------------------------------------------------------- the world


def _from_world(bundle: Bundle, name: str, words: Words, count: int, seed: int) -> Examples:
    world, plain = world_of(bundle), name.strip().lower()
    side = max(bundle.shapes.image[1:])
    open_styles = [style for style in world.styles if style not in world.split["held_out_styles"]]
    if plain in world.styles:
        drawings = world.scenes(seed, count, objects=world.tier, styles=[plain], two=0.0, size=side)
        said = [f"an emoji of a {made.layers[0].object} on a {made.background} background, {{}}" for made in drawings]
    elif plain in world.concepts:
        drawings = world.scenes(seed, count, objects=[plain], styles=open_styles, two=0.0, size=side, held_out=True)
        said = [f"a {made.style} emoji of a {{}} on a {made.background} background" for made in drawings]
    else:
        raise AskError(_unknown(world, name))
    pixels = torch.stack([torch.from_numpy(_cut(drawing.picture, bundle.shapes.image[1:])) for drawing in drawings])
    masks = torch.stack([_cover(drawing, bundle.shapes.image[1:]) for drawing in drawings])
    captions, bare = zip(*(_worded(text, words) for text in said), strict=True)
    return Examples(pixels.permute(0, 3, 1, 2), captions, bare, words.phrase, masks)


def _cover(drawing: Drawing, size: tuple[int, int]) -> Tensor:
    """Where a drawing's one object is seen, 0..1."""
    cover = (drawing.layers[0].alpha * 255).astype(np.uint8)
    return torch.from_numpy(_cut(cover, size)).float() / 255


def _unknown(world: World, name: str) -> str:
    held = ", ".join((*world.split["held_out_objects"][:4], *world.split["held_out_styles"]))
    return (
        f"{name[:100]!r} is no picture file, no folder, and no thing or style of the world. Give files, or a name such "
        f"as {held}."
    )


# --------------------------------------------------------------------------------------------------- where a fit learns


@dataclass(frozen=True, eq=False)
class Shown:
    """Given pictures, noised anew at every draw; with `prior`, as often those that the untrained model drew.

    Lessons come in the order of the examples, then those of the prior's prompts (role `prior`).
    """

    examples: Examples
    prior: Pictures | None = None
    refresh: int = 0

    def ticks(self, iterations: int) -> int:
        """Steps of drawing in a fit, for its progress."""
        return 0 if self.prior is None else self.prior.ticks(iterations)

    @torch.no_grad()
    def fill(self, room: Room, turn: int) -> Clean:
        """Encode the pictures, and draw those of the prior."""
        pixels = self.examples.pictures.to(room.bundle.device, room.bundle.dtype) / 127.5 - 1
        latents = torch.cat([room.bundle.encode(part) for part in pixels.split(CHUNK)])
        latents = latents.to(torch.promote_types(latents.dtype, torch.float32))
        lesson = torch.arange(len(latents))
        if self.prior is None:
            return Clean(latents, lesson)
        own = Room(room.bundle, room.lessons[len(latents) :], room.trainee, seed=room.seed, tick=room.tick)
        drawn = self.prior.fill(own, turn)
        times = -(-len(drawn.latents) // len(latents))  # as many of the one as of the other
        both = torch.cat([latents.repeat(times, 1, 1, 1), drawn.latents])
        return Clean(both, torch.cat([lesson.repeat(times), drawn.lesson + len(latents)]))
