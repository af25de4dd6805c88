"""What a face for adapters needs: the shipped ones, and fitting or merging one to take along."""

import shutil
from pathlib import Path

from workbench.blocks.adapter_files import shipped
from workbench.core.bundle import Bundle
from workbench.core.method import Edit
from workbench.core.scene import using
from workbench.core.tape import Tap
from workbench.runs.erasing import packed


def adapters() -> list[str]:
    """Names of the shipped adapters."""
    return list(shipped())


def learned(bundle: Bundle, edit: Edit, folder: Path, tap: Tap) -> Path:
    """Fit an edit, showing every step, and write what was learned as a LoRA file; stays in the store as well."""
    with using(bundle, edit, tap=tap):
        pass  # entering fits, and the store keeps it for the export
    return merged(bundle, edit, folder)


def merged(bundle: Bundle, edit: Edit, folder: Path) -> Path:
    """What an edit changes, as a LoRA file in a folder. Raises `AskError` for one that acts while drawing."""
    return packed(bundle, [edit], folder, "lora")


def kept_as(path: Path, folder: Path, name: str) -> Path:
    """A file copied into a folder under a plain name that is not taken."""
    plain = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)[:40].strip("-") or "adapter"
    folder.mkdir(parents=True, exist_ok=True)
    target, count = folder / f"{plain}{path.suffix}", 1
    while target.exists():
        count += 1
        target = folder / f"{plain}-{count}{path.suffix}"
    return Path(shutil.copyfile(path, target))
