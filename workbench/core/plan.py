"""A whole request as JSON: model, sampler, edits, lenses, metrics and what to draw."""

import json
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field

from workbench.core.ask import Ask
from workbench.core.errors import AskError
from workbench.core.method import AnyEdit, AnyLens, AnyMetric, AnySampler

SCHEMA = 1


class Plan(BaseModel):
    """What a run executes and a folder replays; `batch` images are drawn at a time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field("", description='"" is the default family; else a folder, a file or a hub id.')
    sampler: AnySampler | None = Field(None, description="None takes the model's own.")
    edits: tuple[AnyEdit, ...] = ()
    lenses: tuple[AnyLens, ...] = ()
    metrics: tuple[AnyMetric, ...] = ()
    ask: Ask
    device: str = Field(default="", description='"" chooses cuda, mps or cpu.')
    dtype: str = Field(default="", description='"" chooses by device.')
    batch: int = Field(default=4, ge=1, le=64)
    schema_version: int = SCHEMA

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back to an equal plan."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, text: str | bytes) -> "Plan":
        """A plan from JSON text. Raises `AskError` for anything that is not one."""
        try:
            data: Any = json.loads(text)
        except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
            raise AskError(f"The plan is not JSON ({error}). Take one from a run's folder: plan.json.") from None
        if not isinstance(data, dict):
            raise AskError('The plan is not a JSON object. It should look like {"ask": {"prompts": ["a cat"]}}.')
        try:
            return cls(**cast(dict[str, Any], data))
        except AskError:
            raise
        except ValueError as error:
            first = str(error).splitlines()[1:3]
            raise AskError(f"The plan cannot be read: {' '.join(first) or error}") from None

    def but(self, **changes: object) -> "Plan":
        """A validated copy with some values changed."""
        values: dict[str, Any] = {**dict(self), **changes}
        return type(self)(**values)
