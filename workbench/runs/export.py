"""`workbench export`: the edited model for other programs, as a checkpoint, as deltas, or as a LoRA.

diffusers   a folder that plain diffusers opens and that draws the same pictures
delta       one safetensors file an edit, in order: base + deltas is the checkpoint, bit for bit
lora        one file for `load_lora_weights`, as close as its rank allows; the report says how close
"""

import json
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import rmtree
from typing import Any, Literal

import torch.nn.functional as F
from torch import Tensor

from workbench.blocks.disk import write_json
from workbench.core.bundle import Bundle
from workbench.core.delta import Delta
from workbench.core.errors import AskError
from workbench.core.method import Edit
from workbench.core.patch import Patch
from workbench.core.scene import fitted, using
from workbench.models.export import LORA, refuse_used, write_folder, write_lora
from workbench.ops.linear_edit import factors
from workbench.runs.answer import Answer
from workbench.runs.requests import method_of
from workbench.runs.verbs import load

Format = Literal["diffusers", "delta", "lora"]
RECIPE = "workbench.json"
#: Share of a change's squared norm that a LoRA keeps, and its highest rank.
KEPT, MOST_RANK = 0.9999, 128


@dataclass(frozen=True)
class Exported:
    """Where a model went, in which form, how many parameters changed, and for a LoRA how far it is off."""

    folder: Path
    format: Format
    changed: int
    rank: int = 0
    lost: float = 0.0


def export_model(bundle: Bundle, edits: Sequence[Edit], out: Path, form: Format = "diffusers") -> Exported:
    """Write the model as the edits leave it to a new folder; nothing is written when anything fails.

    Raises `AskError` for edits that act while drawing, by name, and for a folder that is not empty.
    """
    refuse_live(edits)
    if not edits and form != "diffusers":
        raise AskError(f'{form} holds what edits change, and there is none. Add one: --with "NAME key=value".')
    refuse_used(out)
    draft = out.with_name(f".{out.name}.part")
    rmtree(draft, ignore_errors=True)
    try:
        done = _written(bundle, edits, draft, form)
        write_json(draft / RECIPE, _recipe(bundle, edits, form))
        if out.exists():
            out.rmdir()
        draft.rename(out)
    finally:
        rmtree(draft, ignore_errors=True)
    return replace(done, folder=out)


def refuse_live(edits: Sequence[Edit]) -> None:
    """Raise `AskError` that names the edits which change no weights, or more than weights."""
    live = [edit.card.name for edit in edits if not edit.fits() or type(edit).patch is not Edit.patch]
    if live:
        raise AskError(
            f"{', '.join(live)} acts while drawing and changes no weights, so no file can hold it. Leave it out."
        )


def _written(bundle: Bundle, edits: Sequence[Edit], out: Path, form: Format) -> Exported:
    if form == "delta":
        return _deltas(bundle, edits, out)
    before = parameters(bundle)
    with using(bundle, *edits):
        after = {key: value for key, value in parameters(bundle).items() if value is not before[key]}
        strange = next((key for key, value in after.items() if value.shape != before[key].shape), None)
        if strange is not None:
            raise AskError(f"{strange} has another shape after the edit, which {form} cannot hold. Use --format delta.")
        if form == "diffusers":
            write_folder(bundle, after, out)
            return Exported(out, form, len(after))
        return _lora(before, after, out)


def parameters(bundle: Bundle) -> dict[str, Tensor]:
    """Every parameter of every part by `part:path`."""
    return {
        f"{part}:{name}": value for part, module in bundle.parts.items() for name, value in module.named_parameters()
    }


def _deltas(bundle: Bundle, edits: Sequence[Edit], out: Path) -> Exported:
    out.mkdir(parents=True)
    keys: set[str] = set()
    with Patch(bundle) as patch:
        for index, edit in enumerate(edits):
            edit.check(bundle)
            delta = fitted(edit, bundle, bundle.seams.edits)
            said = {
                **delta.text,
                "strength": repr(float(getattr(edit, "strength", 1.0))),
                "edit": json.dumps(edit.to_json()),
            }
            Delta(delta.kind, delta.tensors, said).save(out / f"{index + 1}-{edit.card.name}.safetensors")
            keys |= set(delta.keys())
            edit.patch(bundle, delta, patch)
            patch.put(bundle.seams, "edits", (*bundle.seams.edits, edit.key))
    return Exported(out, "delta", len(keys))


def apply_deltas(bundle: Bundle, folder: Path, patch: Patch) -> None:
    """Put the deltas of an exported folder on a model, in their order and at their strengths."""
    for path in sorted(folder.glob("*-*.safetensors"), key=lambda path: int(path.name.partition("-")[0])):
        delta = Delta.load(path)
        patch.delta(delta, float(delta.text["strength"]))


def _lora(before: Mapping[str, Tensor], after: Mapping[str, Tensor], out: Path) -> Exported:
    flat = [key for key, value in after.items() if value.ndim < 2]
    if flat:
        raise AskError(
            f"A LoRA holds changes of matrices alone; {flat[0]} and {len(flat) - 1} others are none. Use --format "
            "diffusers or delta."
        )
    changes = {key: (value.detach().double() - before[key].detach().double()).cpu() for key, value in after.items()}
    split = {key: factors(change.flatten(1), KEPT, MOST_RANK) for key, change in changes.items()}
    rank = max((up.shape[1] for up, _ in split.values()), default=0)
    layers: dict[str, tuple[Tensor, Tensor]] = {}
    lost = 0.0
    for key, (up, down) in split.items():
        lost += float((changes[key].flatten(1) - up @ down).square().sum())
        more = rank - up.shape[1]  # one rank for all: loaders scale a layer of another rank by the ratio of the two
        up, down = F.pad(up, (0, more)), F.pad(down, (0, 0, 0, more))
        if changes[key].ndim == 4:
            up, down = up[:, :, None, None], down.reshape(rank, *changes[key].shape[1:])
        layers[key] = (up.float(), down.float())
    share = (lost / max(sum(float(change.square().sum()) for change in changes.values()), 1e-300)) ** 0.5
    write_lora(layers, out, {"lost": f"{share:.3g}"})
    return Exported(out, "lora", len(layers), rank, share)


def _recipe(bundle: Bundle, edits: Sequence[Edit], form: Format) -> dict[str, Any]:
    return {"model": bundle.name, "digest": bundle.digest, "format": form, "edits": [edit.to_json() for edit in edits],
            "dtype": str(bundle.dtype).removeprefix("torch.")}  # fmt: skip


def export(args: Namespace) -> Answer:
    """The command's body."""
    edits = [edit for text in args.edits or () if isinstance(edit := method_of(text, "edit"), Edit)]
    refuse_live(edits)  # before a model is loaded
    bundle = load(args.model or "", models=args.models, device=args.device or "", dtype=args.dtype or "")
    done = export_model(bundle, edits, Path(args.out), args.format)
    data = {"folder": str(done.folder), "format": done.format, "changed": done.changed}
    line = f"{done.folder}: {done.changed} parameters changed"
    if done.format == "lora":
        data |= {"rank": done.rank, "lost": done.lost, "file": LORA}
        line += f", rank up to {done.rank}, {done.lost:.2%} of the change lost"
    return Answer(data, line)
