"""A plan in other words: a command, Python, a notebook cell. Each, run, draws the same pictures."""

import json
import shlex
from typing import Any

from workbench.core.ask import Ask
from workbench.core.fields import Control, controls
from workbench.core.method import Method
from workbench.core.plan import Plan


def as_command(plan: Plan) -> str:
    """One `workbench sample` line that makes this very plan."""
    ask = plan.ask
    prompts, count = _folded(ask.prompts)
    pairs: list[tuple[str, str]] = [("--count", str(count))] if count > 1 else []
    if ask.seeds != tuple(range(len(ask))):
        counted = ask.seeds == tuple(range(ask.seeds[0], ask.seeds[0] + len(ask)))
        pairs.append(("--seed", str(ask.seeds[0]) if counted else ",".join(map(str, ask.seeds))))
    negatives = ask.negatives if len(set(ask.negatives)) > 1 else tuple(filter(None, ask.negatives[:1]))
    pairs += [("--negative", text) for text in negatives]
    pairs += [("--size", f"{ask.size[0]}x{ask.size[1]}")] if ask.size else []
    pairs += [(flag, str(path)) for flag, path in (("--image", ask.image), ("--mask", ask.mask)) if path is not None]
    pairs += [("--sampler", spell(plan.sampler))] if plan.sampler is not None else []
    for flag, methods in (("--with", plan.edits), ("--look", plan.lenses), ("--score", plan.metrics)):
        pairs += [(flag, spell(method)) for method in methods]
    places = (("--model", plan.model), ("--device", plan.device), ("--dtype", plan.dtype))
    pairs += [(flag, value) for flag, value in places if value]
    pairs += [("--batch", str(plan.batch))] if plan.batch != Plan.model_fields["batch"].default else []
    options = [word for flag, value in pairs for word in _option(flag, value)]
    dashed = any(prompt.startswith("-") for prompt in prompts)
    words = [*options, "--", *prompts] if dashed else [*prompts, *options]
    return " ".join(["workbench", "sample", *map(shlex.quote, words)])


def _option(flag: str, value: str) -> tuple[str, ...]:
    return (f"{flag}={value}",) if value.startswith("-") or not value else (flag, value)


def spell(method: Method) -> str:
    """`NAME key=value ...` with the settings that are not the defaults, as `--with` takes it."""
    words = [method.card.name]
    plain = method.to_json()
    for control in controls(type(method)):
        if control.required or getattr(method, control.name) != control.default:
            words.append(f"{control.name}={_spelled(control, plain[control.name])}")
    return " ".join(shlex.quote(word) for word in words)


def _spelled(control: Control, value: Any) -> str:
    if value is None:
        return "none"
    if control.kind in ("text", "choice") and not isinstance(value, bool):
        return str(value)
    return json.dumps(value)


def _folded(prompts: tuple[str, ...]) -> tuple[tuple[str, ...], int]:
    """The prompts once each and how often every one stands in a row, if all do equally often."""
    for count in range(len(prompts), 1, -1):
        if len(prompts) % count == 0:
            blocks = [prompts[i : i + count] for i in range(0, len(prompts), count)]
            if all(len(set(block)) == 1 for block in blocks):
                return tuple(block[0] for block in blocks), count
    return prompts, 1


def as_python(plan: Plan) -> str:
    """A script: the verbs spelled out where they say it all, else the plan itself."""
    if plan.lenses or plan.metrics or len(plan.ask) > plan.batch:
        text = json.dumps(json.dumps(plan.to_json()))
        return f"import workbench as wb\n\nplan = wb.Plan.from_json({text})\nrun = wb.run(plan)\nprint(run.folder)\n"
    where = _keywords({"model": plan.model, "device": plan.device, "dtype": plan.dtype}, leave_out="")
    lines = ["import workbench as wb", "", f"bundle = wb.load({where.removeprefix('model=')})"]
    draw = f"images = wb.sample(NAME, {_request(plan)})"
    if plan.edits:
        lines.append(f"with wb.using(bundle, {', '.join(_made(edit) for edit in plan.edits)}) as edited:")
        lines.append("    " + draw.replace("NAME", "edited", 1))
    else:
        lines.append(draw.replace("NAME", "bundle", 1))
    return "\n".join(lines) + "\n"


def as_cell(plan: Plan) -> str:
    """A notebook cell: the script, and the pictures side by side as its result."""
    code = as_python(plan)
    if "run = wb.run(plan)" in code:
        shown = "from PIL import Image\n\ndisplay(*[Image.fromarray(pixels) for pixels in run.images])\n"
        return code.replace("print(run.folder)\n", "") + shown
    return code + "\nfrom PIL import Image\n\ndisplay(*[Image.fromarray(i.permute(1, 2, 0).numpy()) for i in images])\n"


def _request(plan: Plan) -> str:
    ask: Ask = plan.ask
    words = [repr(list(ask.prompts)), f"seeds={list(ask.seeds)!r}"]
    if any(ask.negatives):
        words.append(f"negatives={list(ask.negatives)!r}")
    words += [f"size={ask.size!r}"] if ask.size else []
    words += [f"{name}={str(path)!r}" for name, path in (("image", ask.image), ("mask", ask.mask)) if path]
    words += [f"sampler={_made(plan.sampler)}"] if plan.sampler is not None else []
    return ", ".join(words)


def _made(method: Method) -> str:
    plain = method.to_json()
    given = [c.name for c in controls(type(method)) if c.required or getattr(method, c.name) != c.default]
    settings = "".join(f", {name}={plain[name]!r}" for name in given)
    return f"wb.method({method.card.name!r}{settings})"


def _keywords(values: dict[str, Any], leave_out: Any) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in values.items() if value != leave_out)
