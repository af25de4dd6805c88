"""Pickled checkpoints to safetensors, read in a child process with bounds on memory, time and what may be in them."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.core.errors import AskError, CheckpointMismatch, MissingPart, ResourceError
from workbench.models import var_folder
from workbench.models.weights import PICKLES, header

#: Seconds a child may take.
PATIENCE = 900
#: Keys under which programs wrap a state dict.
WRAPPERS = ("state_dict", "trainer", "var_wo_ddp")
_SCRIPT = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); from workbench.models import convert; convert.child()"
)
#: transformers looks for `model.safetensors` where the pickled file was called pytorch_model.bin.
_NAMES = {"pytorch_model": "model"}


def convert(files: Sequence[str | Path], out: str | Path, *, patience: float = PATIENCE) -> tuple[Path, ...]:
    """Write each pickled checkpoint as `out/<name>.safetensors`; returns the new files.

    The files of a VAR (its VQ and one transformer, or two) make a model folder instead. A checkpoint is a dict of
    tensors, possibly inside `state_dict`; plain values beside them are dropped, and tensors that share memory are
    written each in full. Nothing is left behind when one fails. Raises `AskError` for names that clash,
    `CheckpointMismatch` for anything that holds more than tensors, `ResourceError` for a full disk or memory.
    """
    targets = _targets([Path(file).expanduser() for file in files], Path(out).expanduser())
    made: list[Path] = []
    try:
        for source, target in targets:
            _one(source, target, patience)
            made.append(target)
        return _together(tuple(made), Path(out).expanduser())
    except BaseException:
        for target in made:
            target.unlink(missing_ok=True)
        raise


def _together(made: tuple[Path, ...], out: Path) -> tuple[Path, ...]:
    """The files of one model in the folder that they make; others as they are."""
    if not any(var_folder.role(header(path)[0]) for path in made):
        return made
    from workbench.models.var.keys import assemble

    return assemble(made, out)


def _targets(files: Sequence[Path], out: Path) -> list[tuple[Path, Path]]:
    if not files:
        raise AskError("There is no file to convert. Give .ckpt, .pt, .pth or .bin files.")
    pairs = [(file, out / f"{_NAMES.get(file.stem, file.stem)}.safetensors") for file in files]
    for file, target in pairs:
        if not file.is_file():
            raise MissingPart(f"There is no file {file}. Give .ckpt, .pt, .pth or .bin files.")
        if file.suffix.lower() not in PICKLES:
            raise AskError(f"{file} is no pickled checkpoint; {', '.join(PICKLES[:4])} are converted.")
        twins = [other for other, same in pairs if same == target]
        if len(twins) > 1:
            raise AskError(f"{twins[0]} and {twins[1]} would both become {target}. Convert them to two folders.")
        if target.exists():
            raise AskError(f"{target} is already there. Remove it, or give another --out.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AskError(f"{out} cannot be made ({error.strerror}). Give another --out.") from None
    return pairs


def _one(source: Path, target: Path, patience: float) -> None:
    """Convert in a child, then put the result in its place at once."""
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    order = [sys.executable, "-I", "-c", _SCRIPT, json.dumps(sys.path), str(source.absolute()), str(draft.absolute())]
    env = _plain_surroundings()
    try:
        done = subprocess.run(order, capture_output=True, text=True, timeout=patience, env=env, check=False)
        answer = _answer(done.stdout)
        if done.returncode != 0 or "error" in answer:
            _fail(source, answer, done.returncode)
        header(draft)
        _settle(draft, target)
    except subprocess.TimeoutExpired:
        raise CheckpointMismatch(f"{source} was not read within {patience:g} s. Check the file.") from None
    finally:
        draft.unlink(missing_ok=True)


def _settle(draft: Path, target: Path) -> None:
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    draft.replace(target)


def _fail(source: Path, answer: Mapping[str, str], code: int) -> None:
    why = answer.get("error", "")
    if answer.get("kind") == "space":
        raise ResourceError(f"{source} could not be written ({why}). Free some space or memory and convert again.")
    if not why:
        why = f"the reading process ended with code {code}; it may have wanted too much memory"
    raise CheckpointMismatch(
        f"{source} is refused: {why}. Only plain dicts of tensors are converted; ask its author for a safetensors file."
    )


def _answer(text: str) -> dict[str, str]:
    try:
        return dict(json.loads(text.splitlines()[-1]))
    except (ValueError, IndexError, TypeError):
        return {}


def _plain_surroundings() -> dict[str, str]:
    kept = ("PATH", "HOME", "LANG", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR", "TEMP")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"OMP_NUM_THREADS": "1"}


def child() -> None:
    """The child's whole life: limits, read, check, write, one line of JSON on stdout."""
    source, draft = Path(sys.argv[2]), Path(sys.argv[3])
    _limit(source.stat().st_size)
    answer: dict[str, Any] = {}
    try:
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        tensors = _tensors(_read(source), source.stat().st_size)
        try:
            save_file(tensors, draft, metadata={"format": "pt"})
        except (SafetensorError, OSError) as error:
            answer = {"error": str(error), "kind": "space"}
    except (MemoryError, OSError) as error:
        answer = {"error": str(error) or "no memory left", "kind": "space"}
    except ValueError as error:
        answer = {"error": str(error)}
    sys.stdout.write("\n" + json.dumps(answer) + "\n")


def _limit(size: int) -> None:
    """Bound memory, time, file size, and open files of this process; where the system knows no limits, go without."""
    try:
        import resource
    except ImportError:
        return
    wanted = {
        resource.RLIMIT_AS: (24 << 30) + 6 * size,  # importing torch with CUDA alone reserves several GiB
        resource.RLIMIT_FSIZE: (16 << 20) + 4 * size,
        resource.RLIMIT_CPU: PATIENCE,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: 256,
    }
    for what, bound in wanted.items():
        now, most = resource.getrlimit(what)
        resource.setrlimit(what, (bound if now == resource.RLIM_INFINITY else min(bound, now), most))
    import signal

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a full file becomes an error that can be told


def _read(source: Path) -> Any:
    """What a pickle holds, tensors and plain containers only. Raises ValueError with the reason."""
    import pickle

    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old protocols are read or refused all the same
            return torch.load(source, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        lines = [line for line in str(error).splitlines() if "unsupported" in line.lower() or "global" in line.lower()]
        told = (lines or ["it is no pickle that torch wrote"])[0].strip().split(". ")[0]
        raise ValueError(f"it holds more than tensors ({told[:200]})") from None
    except (RuntimeError, EOFError, KeyError, AttributeError, IndexError, TypeError, AssertionError) as error:
        told = str(error).strip() if isinstance(error, RuntimeError) else ""
        first = (told or "it is no checkpoint that torch wrote").splitlines()[0]
        raise ValueError(f"it cannot be read ({first[:200]})") from None


def _tensors(value: Any, size: int) -> dict[str, Any]:
    """The tensors of a (wrapped) state dict, each in memory of its own. Raises ValueError with the reason."""
    import torch

    for _ in range(4):
        inner = [value[key] for key in WRAPPERS if isinstance(value, Mapping) and isinstance(value.get(key), Mapping)]
        if not inner:
            break
        value = inner[0]
    if not isinstance(value, Mapping):
        raise ValueError(f"it holds a {type(value).__name__}, not a dict of tensors")
    found = {str(name): item for name, item in value.items() if isinstance(item, torch.Tensor)}
    others = {name: item for name, item in value.items() if not isinstance(item, torch.Tensor)}
    strange = next((name for name, item in others.items() if not _plain(item)), None)
    if strange is not None:
        raise ValueError(f"{strange!r} is a {type(value[strange]).__name__}, not a tensor")
    if not found or len(found) + len(others) != len(value):
        raise ValueError("it holds no tensors by name")
    for name, item in found.items():
        if item.layout != torch.strided or item.is_meta or item.is_quantized:
            raise ValueError(f"{name!r} is no dense tensor")
    total = sum(item.numel() * item.element_size() for item in found.values())
    if total > 4 * size + (1 << 20):
        raise ValueError(f"its tensors would take {total:,} bytes and the file has {size:,}")
    return _apart(found)


def _apart(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Contiguous tensors, no two in one memory."""
    seen: set[int] = set()
    apart: dict[str, Any] = {}
    for name, item in tensors.items():
        item = item.detach()
        place = item.untyped_storage().data_ptr()
        apart[name] = item.clone().contiguous() if place in seen else item.contiguous()
        seen.add(place)
    return apart


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str)
