"""The settings of the Generate page as plain data: kept in the browser, put into a link, read from a picture.

A recipe never holds a path. Whatever comes in from outside (a link, a picture, a browser's storage) goes through the
same validated types as a request, so a hostile one is refused in one line.
"""

import base64
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apps import stack as stacks
from apps.picker import Raws, built, shown
from workbench.core.ask import Ask
from workbench.core.catalog import find
from workbench.core.errors import AskError, WorkbenchError
from workbench.core.method import Sampler
from workbench.core.plan import Plan

SCHEMA = 1
MOST_COUNT = 16
MOST_LINK = 6_000  # characters of a link
_SIZE = re.compile(r"(\d{2,4})\s*[x×*, ]\s*(\d{2,4})")

Recipe = dict[str, Any]


def size(text: str | None) -> tuple[int, int] | None:
    """Width and height from `512x512`; None for the model's own. Raises `AskError`.

    >>> size("128 x 64")
    (128, 64)
    """
    if not text or not text.strip():
        return None
    found = _SIZE.fullmatch(text.strip().lower())
    if found is None:
        raise AskError(
            f"The size is {text[:40]!r}; write width x height in pixels, such as 512x512, or leave it empty."
        )
    return int(found[1]), int(found[2])


def whole(value: Any, name: str, low: int, high: int) -> int:
    """A whole number within bounds. Raises `AskError`."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise AskError(f"{name} is {value!r}; it should be a whole number from {low} to {high}.")
    return value


def plan(recipe: Mapping[str, Any], image: Path | None = None, mask: Path | None = None) -> Plan:
    """The plan of a recipe with its pictures to start from. Raises `AskError`."""
    count = whole(recipe.get("count", 1), "The number of pictures", 1, MOST_COUNT)
    seed = whole(recipe.get("seed", 0), "The seed", 0, 2**53)
    text = str(recipe.get("prompt") or "").strip()
    if not text:
        raise AskError("The prompt is empty. Write what the picture should show.")
    ask = Ask(
        prompts=(text,) * count,
        negatives=str(recipe.get("negative") or ""),
        size=size(recipe.get("size")),
        seeds=tuple(range(seed, seed + count)),
        image=image,
        mask=mask,
    )
    name = recipe.get("sampler")
    sampler = built(str(name), recipe.get("raws", {}).get(str(name), {})) if name else None
    if sampler is not None and not isinstance(sampler, Sampler):
        raise AskError(f"{name} is not a sampler.")
    return Plan(
        model=str(recipe.get("model") or ""), sampler=sampler, edits=stacks.edits(recipe.get("stack", ())), ask=ask
    )


def of_plan(source: Plan) -> Recipe:
    """The recipe that makes a plan again, pictures to start from left out."""
    ask = source.ask
    name, raws = shown(source.sampler.to_json()) if source.sampler is not None else ("", {})
    return {
        "prompt": ask.prompts[0],
        "negative": ask.negatives[0],
        "seed": ask.seeds[0],
        "count": min(len(ask), MOST_COUNT),
        "size": f"{ask.size[0]}x{ask.size[1]}" if ask.size else "",
        "model": source.model,
        "sampler": name,
        "raws": {name: raws} if name else {},
        "stack": stacks.restored([edit.to_json() for edit in source.edits]),
    }


def packed(recipe: Mapping[str, Any]) -> str:
    """A recipe as the text of a link. Raises `AskError` when it is too long for one."""
    data = zlib.compress(json.dumps(plain(recipe), ensure_ascii=False).encode(), 9)
    text = base64.urlsafe_b64encode(data).decode().rstrip("=")
    if len(text) > MOST_LINK:
        raise AskError(
            f"These settings make a link of {len(text):,} characters; {MOST_LINK:,} fit. Shorten the prompt."
        )
    return text


def unpacked(text: str) -> Recipe:
    """The recipe in a link. Raises `AskError` for anything else."""
    if len(text) > MOST_LINK:
        raise AskError("The link is too long to be one of ours.")
    try:
        data = zlib.decompressobj().decompress(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), 1 << 18)
        found = json.loads(data)
    except (ValueError, zlib.error, RecursionError):
        raise AskError("The link is damaged: its settings cannot be read. Ask for it again.") from None
    return checked(found)


def plain(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe without what only this page knows."""
    kept = {key: recipe.get(key) for key in ("prompt", "negative", "seed", "count", "size", "model", "sampler", "raws")}
    kept["stack"] = [{k: entry[k] for k in ("method", "on", "raws")} for entry in recipe.get("stack", ())]
    return {"schema": SCHEMA, **kept}


def checked(found: Any) -> Recipe:
    """A recipe from plain data of unknown origin. Raises `AskError` where it is not one."""
    if not isinstance(found, Mapping):
        raise AskError("These are not settings of ours.")
    try:
        entries: Sequence[Any] = found.get("stack") or ()
        stack = [
            stacks.item(find(str(e["method"])).card.name, _raws(e.get("raws")), bool(e.get("on", True)))
            for e in list(entries)[: stacks.MOST_EDITS]
        ]
        raws: Raws = {find(str(k)).card.name: _raws(v) for k, v in dict(found.get("raws") or {}).items()}
        name = str(found.get("sampler") or "")
        return {
            "prompt": str(found.get("prompt") or "")[:10_000],
            "negative": str(found.get("negative") or "")[:10_000],
            "seed": whole(found.get("seed", 0), "The seed", 0, 2**53),
            "count": whole(found.get("count", 1), "The number of pictures", 1, MOST_COUNT),
            "size": str(found.get("size") or "")[:20],
            "model": str(found.get("model") or "")[:500],
            "sampler": find(name).card.name if name else "",
            "raws": raws,
            "stack": stack,
        }
    except WorkbenchError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError):
        raise AskError("These settings are damaged and cannot be read.") from None


def _raws(found: Any) -> dict[str, Any]:
    plainly = (str, int, float, bool, list, type(None))
    return {str(name)[:80]: value for name, value in dict(found or {}).items() if isinstance(value, plainly)}
