"""What merging and caching save end to end, beside what their operations promise, and what it costs in pictures.

    workbench bench --topic reduce [pictures=4 steps=4 width=256 depth=8 side=64] --out assets/benchmarks
    workbench bench --topic reduce --tier gpu [only=sd1-512]

On a CPU: a transformer of 1,024 tokens with random weights, in fp32 and bf16, the same over all of 20 steps with what
keeps tokens from step to step, and the default model at 20 steps. On a GPU: networks of full size with random weights,
eager and compiled. Ways of a group are taken in turns in one process; no speed-up is written down that was not
measured.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

import torch

from workbench.core.bundle import Bundle
from workbench.core.catalog import method
from workbench.core.errors import AskError, WorkbenchError
from workbench.core.method import Edit, Lens, Sampler
from workbench.core.scene import using
from workbench.models.blank import blank
from workbench.models.random_dit import random_dit
from workbench.runs.bench import Keep, Options, Way, measure
from workbench.runs.environment import environment
from workbench.runs.verbs import load, look, sample

PROMPT = "a flat emoji of a cat on a white background"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
Stack = tuple[Edit, ...]
#: What is promised: speed-ups of the transformer in fp32, and of the best cache on the default model.
PROMISES = {"dit fp32, tome 0.5": 1.2, "dit fp32, tome 0.75": 1.3}
CACHE = 1.8
BEST = 2.5


@dataclass(frozen=True)
class Wishes:
    """Pictures whose likeness is compared, and the random transformer's steps and size; `only` names a GPU case."""

    pictures: int = 4
    steps: int = 4
    width: int = 256
    depth: int = 8
    side: int = 64
    only: str = ""

    @classmethod
    def read(cls, given: Mapping[str, str]) -> "Wishes":
        """Wishes from `key=value` words. Raises `AskError`."""
        known = asdict(cls())
        for name, text in given.items():
            if name not in known:
                raise AskError(f"The benchmark of reduce has no setting {name!r}. It has: {', '.join(known)}.")
            if name == "only":
                if text not in CASES:
                    raise AskError(f"The benchmark of reduce: only is {text!r}; it is one of {', '.join(CASES)}.")
                known[name] = text
                continue
            if not text.isdigit() or not int(text):
                raise AskError(f"The benchmark of reduce: {name} is {text!r}; it must be a whole number from 1.")
            known[name] = int(text)
        return cls(**known)


@dataclass(frozen=True, eq=False)
class Group:
    """Ways to draw with one model: the first is plain. `again` makes the model once more, for compiled ways."""

    name: str
    bundle: Bundle
    sampler: Sampler
    stacks: Mapping[str, Stack]
    size: tuple[int, int] | None = None
    pictures: int = 0  # how many are compared with plain ones, besides the timed one
    again: Callable[[], Bundle] | None = None

    def draw(self, bundle: Bundle) -> Mapping[str, float]:
        """One picture."""
        sample(bundle, [PROMPT], seeds=[0], sampler=self.sampler, size=self.size)
        return {}

    def way(self, stack: Stack) -> Way:
        """A way in which the edits are put and taken back around every picture."""

        def once() -> Mapping[str, float]:
            with using(self.bundle, *stack) as bundle:
                return self.draw(bundle)

        return Way(once, self.settings(stack), stack[0].card.name if stack else "")

    def settings(self, stack: Stack, compiled: bool = False) -> dict[str, Any]:
        """What a row says of itself."""
        return {"model": self.bundle.name, "edits": [edit.to_json() for edit in stack],
                "sampler": self.sampler.to_json(), "compiled": compiled}  # fmt: skip


def survey(options: Options, keep: Keep) -> dict[str, Any]:
    """Rows of every group; `keep` gets what there is after each."""
    wishes = Wishes.read(options.more)
    result: dict[str, Any] = {}
    for group in _cpu(options, wishes) if options.tier == "cpu" else _gpu(options, wishes):
        rows = _rows(group, options)
        if not result:
            result = {
                "schema": 1, "topic": "reduce", "tier": options.tier, "made": datetime.now(UTC).date().isoformat(),
                "environment": environment(group.bundle), "repeats": options.repeats, "against": "plain",
                "how": f"medians of {options.repeats} in turns within a group, end to end; speed-up is plain / way; "
                       "theoretical is the ratio of operations, the attention core counted", "rows": []}  # fmt: skip
        result["model"] = {"name": group.bundle.name, "digest": group.bundle.digest}
        result["rows"] += rows
        result["note"] = verdict(result["rows"])
        keep(result)
    return result


def _rows(group: Group, options: Options) -> list[dict[str, Any]]:
    ways = {f"{group.name}, {name}": group.way(stack) for name, stack in group.stacks.items()}
    rows = measure(ways, options.repeats, group.bundle.device)
    for row, stack in zip(rows, group.stacks.values(), strict=True):
        row["numbers"] |= _promise(group, stack)
    if group.again is not None:
        for name, stack in group.stacks.items():
            rows.append(_compiled(group, f"{group.name}, {name}, compiled", stack, options.repeats))
    for row in rows:
        if row["numbers"]:
            row["numbers"]["speedup"] = round(1 / row["numbers"]["ratio"], 4)
    return rows


def _compiled(group: Group, label: str, stack: Stack, repeats: int) -> dict[str, Any]:
    """A row of a compiled network against the plain eager one, in turns; a second model holds the edits meanwhile."""
    bundle, settings = cast(Callable[[], Bundle], group.again)(), group.settings(stack, compiled=True)
    network = next(iter(bundle.parts.values()))
    about = {"name": label, "method": stack[0].card.name if stack else "", "settings": settings}
    with using(bundle, *stack) as edited:
        network.compile(dynamic=False)
        try:
            way = Way(lambda: group.draw(edited), settings)
            plain = Way(lambda: group.draw(group.bundle), {})
            row = measure({"plain": plain, label: way}, repeats, bundle.device)[1]
        except (WorkbenchError, RuntimeError) as error:  # a compiler or a memory that gives up is an answer, too
            return {**about, "numbers": {}, "state": f"not measured: {str(error).splitlines()[0][:160]}"}
        finally:
            network._compiled_call_impl = None
            torch.compiler.reset()
    return {**about, "numbers": row["numbers"]}


def _promise(group: Group, stack: Stack) -> dict[str, float]:
    """Ratio of operations and likeness to plain pictures, by the lens that the page shows."""
    if not stack:
        return {}
    count = max(1, group.pictures)
    scorer = "emoji-scorer" if group.bundle.world is not None else ""
    lens = cast(Lens, method("speed-report", repeats=1, scorer=scorer))
    report = look(lens, group.bundle, [PROMPT] * count, seeds=list(range(count)), sampler=group.sampler,
                  size=group.size, edits=stack)  # fmt: skip
    kept = ("theoretical", "psnr", "distance") if group.pictures else ("theoretical",)
    return {name: round(report.numbers[name], 4) for name in kept if name in report.numbers}


def _edits(*stack: tuple[str, dict[str, Any]]) -> Stack:
    return tuple(cast(Edit, method(name, **settings)) for name, settings in stack)


def _merging() -> dict[str, Stack]:
    return {
        "plain": (),
        "tome 0.5": _edits(("tome", {"ratio": 0.5})),
        "tome 0.75": _edits(("tome", {"ratio": 0.75})),
        "todo 2": _edits(("todo", {"factor": 2})),
    }


def _cpu(options: Options, wishes: Wishes) -> Iterator[Group]:
    sampler = cast(Sampler, method("diffuse", steps=wishes.steps))
    for name in ("fp32", "bf16"):
        dit = random_dit(wishes.width, wishes.depth, wishes.side, dtype=DTYPES[name])
        yield Group(f"dit {name}", dit, sampler, _merging())
    default = cast(Sampler, method("diffuse", steps=max(options.steps, 2)))
    dit = random_dit(wishes.width, wishes.depth, wishes.side)
    yield Group("dit fp32, whole run", dit, default, {"plain": (), **_token_caches(options.steps)})
    bundle = load(options.model, models=options.models, device="cpu", dtype=options.dtype)
    stacks = {"plain": (), **_caches(bundle)}
    yield Group("default", bundle, default, stacks, pictures=wishes.pictures)


def _token_caches(steps: int) -> dict[str, Stack]:
    """What renews some of a transformer's tokens in most steps: as many whatever the weights say, so random ones do."""
    wait = max(2, 2 * steps // 5)  # 8 of 20, its default
    return {"toca 3": _edits(("toca", {"interval": 3})), f"cat-prune {wait}": _edits(("cat-prune", {"wait": wait}))}


def _caches(bundle: Bundle) -> dict[str, Stack]:
    if bundle.family != "unet":
        return {f"first-block-cache {t}": _edits(("first-block-cache", {"threshold": t})) for t in (0.08, 0.2)}
    found = {f"deep-cache {i}": _edits(("deep-cache", {"interval": i})) for i in (2, 3, 5)}
    both = (("cfg-cutoff", {"stop": 0.5}), ("deep-cache", {"interval": 3}))
    return {**found, "tome 0.5": _edits(("tome", {})), "cfg-cutoff and deep-cache 3": _edits(*both)}


#: GPU case -> public architecture and pixels a side.
CASES: Mapping[str, tuple[str, int]] = {
    "sd1-512": ("sd1", 512),
    "sd1-1024": ("sd1", 1024),
    "sdxl-1024": ("sdxl", 1024),
    "pixart-1024": ("pixart", 1024),
    "sd3-1024": ("sd3", 1024),
    "flux-1024": ("flux", 1024),
}


def _gpu(options: Options, wishes: Wishes) -> Iterator[Group]:
    dtype = DTYPES.get(options.dtype, torch.bfloat16)
    sampler = cast(Sampler, method("diffuse", steps=options.steps))
    for name, (kind, side) in CASES.items():
        if wishes.only not in ("", name):
            continue
        again = partial(blank, cast(Any, kind), device="cuda", dtype=dtype)
        bundle = again()
        stacks = {way: stack for way, stack in {**_merging(), **_stacks(bundle)}.items()
                  if all(bundle.family in edit.card.families for edit in stack)}  # fmt: skip
        yield Group(name, bundle, sampler, stacks, (side, side), 1, again)
        torch.cuda.empty_cache()


def _stacks(bundle: Bundle) -> dict[str, Stack]:
    """The other methods one by one, and those that go together best."""
    cache = ("deep-cache", {"interval": 3}) if bundle.family == "unet" else ("first-block-cache", {"threshold": 0.15})
    alone = [("tome", {"shared": True}), ("importance-tome", {}), cache, ("cfg-cutoff", {})]
    named = {f"{name} {' '.join(f'{v}' for v in settings.values())}".strip(): _edits((name, settings))
             for name, settings in alone}  # fmt: skip
    if bundle.family != "unet":
        named |= {"toca 3": _edits(("toca", {"interval": 3}))}
    return {**named, "best stack": _edits(("cfg-cutoff", {}), cache, ("todo", {}))}


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """What was promised beside what was measured, in a line; and what was slower than plain."""
    found = {row["name"]: row["numbers"] for row in rows if row.get("numbers")}
    words = [f"{name} {found[name]['speedup']:.2f}x of {least}x ({_kept(found[name]['speedup'] >= least)})"
             for name, least in PROMISES.items() if name in found]  # fmt: skip
    caches = {name: n["speedup"] for name, n in found.items() if name.startswith("default, ") and "cache" in name}
    if caches:
        best = max(caches, key=lambda name: caches[name])
        words.append(f"{best} {caches[best]:.2f}x of {CACHE}x ({_kept(caches[best] >= CACHE)})")
    for case in CASES:
        ours = {name: n["speedup"] for name, n in found.items() if name.startswith(f"{case}, ")}
        if ours:
            best = max(ours, key=lambda name: ours[name])
            words.append(f"{best} {ours[best]:.2f}x of {BEST}x ({_kept(ours[best] >= BEST)})")
    slow = [name for name, n in found.items() if n["speedup"] < 0.97]
    return "; ".join(words) + (f". Slower than plain: {', '.join(slow)}" if slow else "") + "."


def _kept(reached: bool) -> str:
    return "reached" if reached else "missed"
