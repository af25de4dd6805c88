"""The bodies of the commands that load a model or look at runs: arguments in, an `Answer` out."""

import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workbench.blocks.disk import write_json
from workbench.blocks.pictures import open_picture
from workbench.core.ask import Ask
from workbench.core.errors import AskError
from workbench.core.plan import Plan
from workbench.core.tape import Step, Tap
from workbench.models.convert import convert as convert_files
from workbench.models.files import list_models, weight_files
from workbench.models.weights import digest
from workbench.runs import bench as benches
from workbench.runs import sweep as sweeps
from workbench.runs.answer import Answer
from workbench.runs.environment import differences
from workbench.runs.execute import replay as replay_run
from workbench.runs.execute import run as run_plan
from workbench.runs.history import PLAN, Run, read_run
from workbench.runs.panels import tame
from workbench.runs.requests import made, pairs, plan_of
from workbench.runs.shelf import facts_inside, plan_inside
from workbench.runs.verbs import load
from workbench.runs.verbs import score as score_images


def progress(args: Namespace) -> Tap:
    """A tap that shows steps and remaining seconds on stderr when that is a terminal."""
    began, seen = time.monotonic(), 0
    shown = sys.stderr.isatty() and not args.json

    def tap(step: Step) -> None:
        nonlocal began, seen
        if not shown:
            return
        began, seen = (time.monotonic(), 0) if step.index == 0 else (began, seen + 1)
        left = (time.monotonic() - began) / max(seen, 1) * (step.total - step.index - 1)
        end = "\n" if step.index + 1 == step.total else ""
        sys.stderr.write(f"\rstep {step.index + 1}/{step.total}, {left:.0f} s left \x1b[K{end}")
        sys.stderr.flush()

    return tap


def sample(args: Namespace) -> Answer:
    """Draw prompts into a run folder."""
    return told(run_plan(plan_of(args, args.prompts), args.out, progress(args), models=args.models))


def look(args: Namespace) -> Answer:
    """Look through a lens; its panels and numbers go into a run folder."""
    lens = made(args.lens, args.settings, "lens")
    plan = plan_of(args, args.prompt, [lens])
    return told(run_plan(plan, args.out, progress(args), models=args.models, drawing=False))


def run(args: Namespace) -> Answer:
    """Execute a plan from a file, or the one inside a picture that was drawn here."""
    plan = read_plan(Path(args.plan))
    named = {name: getattr(args, name) for name in ("model", "device", "dtype") if getattr(args, name)}
    return told(run_plan(plan.but(**named), args.out, progress(args), models=args.models))


def read_plan(path: Path) -> Plan:
    """The plan in a JSON file, a run folder, or a picture's metadata."""
    path = path / PLAN if path.is_dir() else path
    if not path.is_file():
        raise AskError(f"There is no file {path}. Give a plan's JSON, a run folder or a picture that was drawn here.")
    return plan_inside(path) if path.suffix.lower() == ".png" else Plan.from_json(path.read_bytes())


def told(run: Run) -> Answer:
    """A run as an answer: where the pictures are, what was measured."""
    data = {
        "folder": str(run.folder), "status": run.status, "seconds": run.seconds,
        "pictures": [{**entry, "file": str(run.folder / entry["file"])} for entry in run.report["pictures"]],
        "numbers": run.numbers, "reports": run.report["reports"], "model": run.report["model"],
        "environment": run.report["environment"], "plan": run.plan.to_json()}  # fmt: skip
    lines = [str(path) for path in run.pictures]
    lines += [f"{name}: {line}" for name, found in run.numbers.items() for line in numbered(found)]
    for name, report in run.report["reports"].items():
        titles = [panel.get("title") or panel["panel"] for panel in report["panels"]]
        lines += [f"{name}: {len(titles)} panels ({', '.join(titles)}) in {run.folder}"] if titles else []
    lines += [f"stopped after {len(run.pictures)} pictures"] if run.status == "stopped" else []
    return Answer(data, "\n".join(lines), 1 if run.status in ("failed", "stopped") else 0)


def numbered(numbers: Mapping[str, float | None]) -> list[str]:
    """Numbers as `name = value` texts."""
    return [f"{name} = {value:.6g}" if value is not None else f"{name} = undefined" for name, value in numbers.items()]


def replay(args: Namespace) -> Answer:
    """Draw a run again and compare the pixels."""
    first = read_run(args.run)
    again = replay_run(args.run, args.out, progress(args), models=args.models)
    changed = differences(first.report.get("environment", {}), again.report["environment"])
    if first.report.get("model", {}).get("digest") != again.report["model"]["digest"]:
        changed.insert(0, "the model's weights differ")
    data = {"same": not again.differing, "compared": len(first.pictures), "differing": list(again.differing),
            "changed": changed, "folder": str(again.folder)}  # fmt: skip
    if not again.differing:
        return Answer(data, f"{len(first.pictures)} pictures, the same pixels")
    why = f" ({'; '.join(changed)})" if changed else ""
    return Answer(data, f"{len(again.differing)} of {len(first.pictures)} pictures differ{why}", 1)


def score(args: Namespace) -> Answer:
    """Score pictures drawn here; prompts and seeds come from their metadata."""
    metric = made(args.metric, args.settings, "metric")
    images, ask, skipped = drawn(Path(args.images))
    bundle = load(args.model or "", models=args.models, device=args.device or "", dtype=args.dtype or "")
    report = score_images(metric, images, ask, bundle)  # type: ignore[arg-type]
    data = {"metric": metric.to_json(), "numbers": tame(report.numbers), "pictures": len(images), "skipped": skipped,
            "unit": getattr(metric, "unit", ""), "better": getattr(metric, "better", "")}  # fmt: skip
    return Answer(data, "\n".join([f"{args.metric} of {len(images)} pictures", *numbered(data["numbers"])]))


def drawn(folder: Path) -> tuple[torch.Tensor, Ask, int]:
    """The pictures of a folder that carry a request, as uint8 [B, 3, H, W], their request, and how many do not."""
    if not folder.exists():
        raise AskError(f"There is no folder {folder}. Give one with pictures that were drawn here, such as outputs.")
    direct = [folder] if folder.is_file() else sorted(folder.glob("*.png"))
    files = [path for path in direct or sorted(folder.rglob("*.png")) if not path.name.startswith("input-")]
    known = [(path, ask) for path in files if (ask := _ask_inside(path)) is not None]
    if not known:
        raise AskError(
            f"{folder} holds no picture with our metadata ({len(files)} PNG files looked at), so the prompts are "
            "unknown. Draw some with: workbench sample ... --out DIR."
        )
    asks = [ask for _, ask in known]
    pixels = [open_picture(path) for path, _ in known]
    sizes = {f"{image.shape[1]}x{image.shape[0]}" for image in pixels}
    if len(sizes) > 1:
        raise AskError(
            f"The pictures in {folder} have several sizes ({', '.join(sorted(sizes))}). Score one at a time."
        )
    stack = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).contiguous()
    ask = Ask(prompts=[a.prompts[0] for a in asks], negatives=[a.negatives[0] for a in asks],
              seeds=[a.seeds[0] for a in asks])  # fmt: skip
    return stack, ask, len(files) - len(known)


def _ask_inside(path: Path) -> Ask | None:
    """The request that drew a picture; None where it does not say, or not soundly."""
    try:
        return Ask(**facts_inside(path)["plan"]["ask"])
    except (KeyError, TypeError, AskError):
        return None


def about(args: Namespace) -> Answer:
    """What a model is: family, shapes, parts, licence, and what its world holds."""
    bundle = load(args.about or args.model or "", models=args.models, device=args.device or "", dtype=args.dtype or "")
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in bundle.parts.items()}
    shapes = bundle.shapes
    data: dict[str, Any] = {
        "name": bundle.name, "family": bundle.family, "digest": bundle.digest, "source": bundle.source,
        "shapes": {"latent": shapes.latent, "image": shapes.image, "text": shapes.text, "multiple": shapes.multiple},
        "parts": parts, "sampler": bundle.sampler, "device": str(bundle.device),
        "dtype": str(bundle.dtype).removeprefix("torch."), **_plain(bundle.about)}  # fmt: skip
    lines = [f"{bundle.name} ({bundle.family}), {bundle.device}, {data['dtype']}"]
    lines += [f"  {name}: {count / 1e6:.2f} M parameters" for name, count in parts.items()]
    lines.append(f"  pictures {shapes.image[2]}x{shapes.image[1]}, latents {'x'.join(map(str, shapes.latent))}")
    for name, value in data.items():
        if isinstance(value, str | list) and value and name not in ("name", "family", "device", "dtype"):
            lines.append(f"  {name}: {', '.join(map(str, value)) if isinstance(value, list) else value}")
    return Answer(tame(data), "\n".join(lines))


def _plain(about: Mapping[str, Any]) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, (tuple, set, frozenset)) else v for k, v in about.items()}


def models(args: Namespace) -> Answer:
    """The models that can be named: shipped ones and those of --models."""
    found = list_models(args.models)
    data = [{"name": m.name, "family": m.family, "class": m.cls, "bytes": m.bytes, "path": str(m.path),
             "problem": m.problem} for m in found]  # fmt: skip
    rows = [f"{m.name:32} {m.family:6} {m.bytes / 2**20:9.1f} MiB  {m.problem or m.cls}" for m in found]
    return Answer({"models": data}, "\n".join(rows) or "No models. Put some into a folder and name it with --models.")


def convert(args: Namespace) -> Answer:
    """Plain state dicts to safetensors."""
    made_files = convert_files([Path(file) for file in args.files], Path(args.out))
    written = [str(path) for path in made_files]
    return Answer({"files": written}, "\n".join(written))


def sweep(args: Namespace) -> Answer:
    """Run a grid of plans; what is finished already is skipped."""
    cells = sweeps.run_sweep(Path(args.sweep), workers=args.workers, out=args.out, models=args.models)
    failed = [cell for cell in cells if cell["status"] != "done"]
    rows = [f"{cell['status']:8} {cell['settings']} {cell['error'] or cell['folder']}" for cell in cells]
    return Answer({"cells": cells, "failed": len(failed)}, "\n".join(rows), 1 if failed else 0)


def bench(args: Namespace) -> Answer:
    """Measure a topic against its plain counterpart."""
    if args.topic is None:
        return Answer({"topics": list(benches.topics())}, "\n".join(benches.topics()))
    more = pairs(args.settings, "bench")
    options = benches.Options(args.tier, args.repeats, args.model or "", args.models, args.dtype or "", more=more)

    def keep(found: dict[str, Any]) -> None:
        if args.out:
            write_json(Path(args.out) / f"{args.topic}.json", tame(found))

    result = benches.run_bench(args.topic, options, keep)
    keep(result)
    return Answer(result, benches.as_text(result))


def shipped_digests() -> dict[str, str]:
    """The digests of the shipped models by name, as a bundle of theirs has them; loads none."""
    listed = [entry for entry in list_models() if not entry.problem]
    return {entry.name: digest(weight_files(entry.path)) for entry in listed if entry.path.is_dir()}
