"""What a command says."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """`data` for --json, `text` for people, and the exit code."""

    data: Mapping[str, Any]
    text: str
    code: int = 0
