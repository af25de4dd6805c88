"""What is asked for: prompts, negatives, seeds, size, picture and mask."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from workbench.core.errors import AskError

MOST_SEED = 2**63 - 1
LONGEST_PROMPT = 8_000


class Ask(BaseModel):
    """A request for `len(prompts)` images. Image i depends on prompt i, negative i and seed i alone.

    `negatives` and `seeds` may be given once for all; seeds missing altogether count up from 0. `size` is (width,
    height) in pixels, or None for the model's own. `image` and `mask` are files: the mask's white part is redrawn.
    Raises `AskError` for anything that cannot be drawn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    prompts: tuple[str, ...] = Field(description="One text an image; `class:207` is a class id.")
    negatives: tuple[str, ...] = Field((), description="What each image should not show.")
    seeds: tuple[int, ...] = Field((), description="One whole number an image.")
    size: tuple[int, int] | None = Field(None, description="Width and height in pixels.")
    image: Path | None = Field(None, description="A picture to start from.")
    mask: Path | None = Field(None, description="White is redrawn, black is kept; of the picture's size.")

    def __init__(self, **values: object) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            trouble = error.errors(include_url=False)[0]
            place = ".".join(map(str, trouble["loc"])) or "request"
            message = trouble["msg"].removeprefix("Value error, ")
            raise AskError(message if trouble["type"] == "value_error" else f"{place}: {message}.") from None

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given  # no request at all: the model says so
        wishes = cast(dict[str, object], given)
        values = {name: (value,) if _single(name, value) else value for name, value in wishes.items()}
        rows = [_row(values.get(name)) for name in ("prompts", "seeds", "negatives")]
        if None in rows:
            return values  # of a wrong type: the fields say so
        prompts, seeds, negatives = (row or () for row in rows)
        if not prompts:
            raise ValueError('There is no prompt. Give at least one, for example "a cat".')
        if len(prompts) == 1 and len(seeds) > 1:
            prompts *= len(seeds)
        count = len(prompts)
        seeds = seeds or tuple(range(count))
        if len(seeds) == 1 and count > 1 and isinstance(seeds[0], int):
            seeds = tuple(range(seeds[0], seeds[0] + count))
        negatives = (negatives or ("",)) * (count if len(negatives) <= 1 else 1)
        return {**values, "prompts": prompts, "seeds": seeds, "negatives": negatives}

    @model_validator(mode="after")
    def _check(self) -> "Ask":
        count = len(self.prompts)
        for name, row in (("seeds", self.seeds), ("negatives", self.negatives)):
            if len(row) != count:
                raise ValueError(f"There are {count} prompts and {len(row)} {name}. Give one for all, or one a prompt.")
        for text in (*self.prompts, *self.negatives):
            if len(text) > LONGEST_PROMPT:
                raise ValueError(
                    f"A prompt has {len(text):,} characters; at most {LONGEST_PROMPT:,} are taken (text models read "
                    "about 300 of them). Shorten it."
                )
        wrong = next((seed for seed in self.seeds if not 0 <= seed <= MOST_SEED), None)
        if wrong is not None:
            raise ValueError(f"The seed is {wrong}; seeds are whole numbers from 0 to {MOST_SEED}.")
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"The size is {self.size[0]}x{self.size[1]}; both sides must be at least 1 pixel.")
        if self.mask is not None and self.image is None:
            raise ValueError("There is a mask but no picture to apply it to. Give an image as well.")
        return self

    def but(self, **changes: object) -> "Ask":
        """A validated copy with some values changed."""
        return type(self)(**{**dict(self), **changes})

    def row(self, index: int) -> "Ask":
        """The request for image `index` alone."""
        return self.but(
            prompts=self.prompts[index],
            negatives=self.negatives[index],
            seeds=self.seeds[index],
        )

    def __len__(self) -> int:
        return len(self.prompts)


def _single(name: str, value: object) -> bool:
    return (name in ("prompts", "negatives") and isinstance(value, str)) or (name == "seeds" and isinstance(value, int))


def _row(value: object) -> tuple[Any, ...] | None:
    """The values of a row, () for none at all, None for what is no row."""
    if value is None:
        return ()
    return tuple(cast(Iterable[Any], value)) if isinstance(value, Iterable) and not isinstance(value, str) else None
