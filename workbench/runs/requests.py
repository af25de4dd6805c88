"""Words of a command line into plans: sizes, seeds, `NAME key=value ...`."""

import difflib
import shlex
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.core.ask import Ask
from workbench.core.catalog import find
from workbench.core.errors import AskError
from workbench.core.fields import parse
from workbench.core.method import KINDS, Kind, Method
from workbench.core.plan import Plan

MOST_COUNT = 10_000


def method_of(text: str, kind: Kind) -> Method:
    """The method that `NAME key=value ...` spells, with shell quoting inside."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise AskError(f"{text!r} cannot be read ({error}). Write: NAME key=value key='two words'.") from None
    if not words:
        raise AskError(f"An empty text names no {kind}. Write: NAME key=value. All: workbench list.")
    return made(words[0], words[1:], kind)


def made(name: str, words: Sequence[str], kind: Kind) -> Method:
    """The method of a name and `key=value` words, which must be of a kind."""
    cls = find(name)
    if not issubclass(cls, KINDS[kind]):
        flag = {"sampler": "--sampler", "edit": "--with", "lens": "workbench look", "metric": "workbench score"}
        raise AskError(f"{name} is {_a(cls.kind)}, not {_a(kind)}. Use it with {flag[cls.kind]}.")
    return parse(cls, pairs(words, name))


def _a(kind: str) -> str:
    return f"an {kind}" if kind[0] in "aeiou" else f"a {kind}"


def pairs(words: Sequence[str], name: str) -> dict[str, str]:
    """`key=value` words as a mapping. Raises `AskError` for anything else."""
    found: dict[str, str] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign:
            raise AskError(f"{name}: {word!r} is not key=value. Values with spaces stand in quotes: key='two words'.")
        if key in found:
            raise AskError(f"{name}: {key} is given twice, as {found[key]!r} and {value!r}. Give it once.")
        found[key] = value
    return found


def seeds_of(text: str | None) -> tuple[int, ...]:
    """`7` or `7,9,11` as numbers; nothing for None."""
    if text is None:
        return ()
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise AskError(f"--seed is {text!r}; it should be a whole number, or several with commas: 7,9,11.") from None


def size_of(text: str | None) -> tuple[int, int] | None:
    """`640x512` as (width, height); None for None."""
    if text is None:
        return None
    width, _, height = text.lower().partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise AskError(f"--size is {text!r}; it should be WIDTHxHEIGHT in pixels, such as 512x512.")
    return int(width), int(height)


def ask_of(args: Namespace, prompts: Sequence[str]) -> Ask:
    """The request of `sample` and `look`: every prompt `--count` times, seeds counting up from `--seed`."""
    count = getattr(args, "count", 1)
    if not 1 <= count <= MOST_COUNT:
        raise AskError(f"--count is {count}; it should be from 1 to {MOST_COUNT}.")
    many = [prompt for prompt in prompts for _ in range(count)]
    negatives = args.negative or []
    if len(negatives) == len(prompts) > 1:
        negatives = [text for text in negatives for _ in range(count)]
    for name in ("image", "mask"):
        path: str | None = getattr(args, name)
        if path is not None and not Path(path).is_file():
            raise AskError(f"There is no file {path} for --{name}. Give the path of a PNG, JPEG or WebP file.")
    return Ask(prompts=many, negatives=negatives, seeds=seeds_of(args.seed), size=size_of(args.size),
               image=args.image, mask=args.mask)  # fmt: skip


def plan_of(args: Namespace, prompts: Sequence[str], lenses: Sequence[Method] = ()) -> Plan:
    """The plan of `sample` or `look` with these arguments."""
    spelled: dict[str, Any] = {
        "edits": [method_of(text, "edit") for text in args.edits or ()],
        "lenses": [*lenses, *(method_of(text, "lens") for text in getattr(args, "look", None) or ())],
        "metrics": [method_of(text, "metric") for text in getattr(args, "score", None) or ()],
    }
    if args.sampler:
        spelled["sampler"] = method_of(args.sampler, "sampler")
    batch = getattr(args, "batch", None)
    if batch is not None and not 1 <= batch <= 64:
        raise AskError(f"--batch is {batch}; it should be from 1 to 64 pictures at a time.")
    spelled |= {} if batch is None else {"batch": batch}
    where = {"model": args.model or "", "device": args.device or "", "dtype": args.dtype or ""}
    return Plan(ask=ask_of(args, prompts), **where, **spelled)


def nearest(name: str, known: Sequence[str], what: str) -> AskError:
    """The error for a name that is not among the known ones."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    return AskError(f"There is no {what} {name!r}. {hint}Possible: {', '.join(known) or 'none'}.")
