"""Finding model files and saying what they are, before anything of them is loaded."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from workbench.core.errors import MissingPart, ModelError, UnsupportedFamily
from workbench.core.places import ASSETS
from workbench.models import single, var_folder
from workbench.models.kinds import KINDS, PIPELINES, Kind, kind_of, needed
from workbench.models.weights import PICKLES, header, read_json, refusal, shards

DEFAULT = "emoji-unet"
DEPTH = 3
Layout = Literal["pipeline", "single", "clip", "judge", "var"]
FAMILIES: dict[Layout, str] = {
    "pipeline": "unet", "single": "unet", "clip": "clip", "judge": "judge", "var": "var"}  # fmt: skip

#: File stems under which a part's weights lie.
STEMS = ("diffusion_pytorch_model", "model")


_PART_CLASSES = {cls for kind in KINDS for classes in kind.parts.values() for cls in classes}

#: Files beside the weights that decide what a part does.
SETTINGS = ("config.json", "scheduler_config.json", "preprocessor_config.json", "tokenizer.json", "vocab.json",
            "tokenizer_config.json", "merges.txt", "special_tokens_map.json", "added_tokens.json",
            "spiece.model")  # fmt: skip


@dataclass(frozen=True)
class Found:
    """A model on disk: where, laid out how, of which library class (for a single file: sd1, sd2 or sdxl)."""

    name: str
    path: Path
    layout: Layout
    cls: str

    @property
    def family(self) -> str:
        """The family its bundle will have."""
        kind = kind_of(self.cls)
        return FAMILIES[self.layout] if kind is None else kind.family


@dataclass(frozen=True)
class Listed:
    """A line of a model list; `problem` says why it cannot be loaded, "" when it can."""

    name: str
    path: Path
    family: str
    cls: str
    bytes: int
    problem: str = ""


def find(model: str = "", models: str | Path | None = None) -> Found | None:
    """The model meant by a path, a name in `models`, or the name of a shipped one; "" is the default.

    None when it may be a hub id. Raises `MissingPart` or `UnsupportedFamily` in one line otherwise.
    """
    shipped = ASSETS / "models"
    if not model:
        if not (shipped / DEFAULT).is_dir():
            raise MissingPart(f"The default model is not in {shipped}. Name another: a folder, a .safetensors file.")
        return inspect(shipped / DEFAULT)
    path = Path(model).expanduser()
    if path.exists():
        return inspect(path)
    for folder in filter(None, (_folder(models), shipped)):
        for candidate in (folder / model, folder / f"{model}.safetensors"):
            if candidate.exists():
                return inspect(candidate, model)
    if re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", model) and path.suffix not in (".safetensors", *PICKLES):
        return None
    known = ", ".join(entry.name for entry in list_models(models) if not entry.problem) or "none"
    raise MissingPart(
        f"There is no model {model!r}: no such file or folder. Known by name: {known}. "
        "Give a folder, a .safetensors file or a hub id such as owner/name."
    )


def inspect(path: Path, name: str = "") -> Found:
    """What lies at a path. Raises `MissingPart`, `CheckpointMismatch` or `UnsupportedFamily`; loads no tensor."""
    path = path.absolute()
    name = name or (path.name if path.is_dir() else path.stem)
    if path.is_dir():
        return _folder_model(path, name)
    if path.suffix.lower() in PICKLES:
        raise MissingPart(refusal(path))
    if path.suffix.lower() != ".safetensors":
        raise UnsupportedFamily(f"{path} is no model. Give a folder with a model_index.json or a .safetensors file.")
    return Found(name, path, "single", single.detect(path.name, *header(path)).kind)


def list_models(models: str | Path | None = None) -> tuple[Listed, ...]:
    """The shipped models and everything in `models` that looks like one, unusable ones with the reason."""
    places = [place for place in (ASSETS / "models", _folder(models)) if place is not None and place.is_dir()]
    return tuple(_listed(path, place) for place in places for path in _candidates(place, DEPTH))


def pipeline_parts(folder: Path) -> dict[str, tuple[str, str]]:
    """Part -> (library, class) of a pipeline folder's model_index.json, checked against what is allowed.

    Parts that the architecture can do without (SD3's text encoders) are left out where their folder is not there.
    Raises `UnsupportedFamily` for another pipeline or a part of an unknown class, `MissingPart` for one that lacks.
    """
    index = read_json(folder / "model_index.json")
    cls = index.get("_class_name")
    kind = kind_of(str(cls))
    if kind is None:
        raise UnsupportedFamily(f"{folder} is a {cls!r}; read here: {', '.join(PIPELINES)}.")
    if index.get("requires_aesthetics_score"):
        raise UnsupportedFamily(f"{folder} is an SDXL refiner, which is not read here. Load the base model.")
    named = [name for name in (*kind.parts, "scheduler") if _named(index.get(name))]
    parts = {name: _part(folder, name, index[name], kind) for name in named}
    wanted = needed(str(cls))
    missing = [name for name in wanted if name not in parts or not (folder / name).is_dir()]
    if missing:
        raise MissingPart(f"{folder} lacks {' and '.join(missing)}; a {cls} needs {', '.join(wanted)}.")
    there = {name: part for name, part in parts.items() if name in wanted or (folder / name).is_dir()}
    for tower in (name for name in there if name.startswith("text_encoder")):
        words = tower.replace("text_encoder", "tokenizer")
        if words not in there:
            raise MissingPart(f"{folder} lacks {words}, without which its {tower} cannot read. Download it as well.")
    if not any(name.startswith("text_encoder") for name in there):
        raise MissingPart(f"{folder} has no text encoder; a {cls} needs at least one of its own.")
    return there


def weight_files(folder: Path) -> list[tuple[str, Path]]:
    """(name within the model, file) of everything of a model folder that decides what it draws."""
    rooms = [folder]
    if (folder / "model_index.json").is_file():
        named = var_folder.parts(folder) if var_folder.is_var(folder) else pipeline_parts(folder)
        rooms += [folder / part for part in named]
    files: list[Path] = []
    for room in rooms:
        if room == folder and len(rooms) > 1:
            files.append(folder / "model_index.json")
            continue
        files += [p for p in room.iterdir() if p.name in SETTINGS]
        if (room / "config.json").is_file():
            files += shards(room, STEMS)[0]
    return [(path.relative_to(folder).as_posix(), path) for path in files]


def _folder(models: str | Path | None) -> Path | None:
    if not models:
        return None
    folder = Path(models).expanduser()
    if not folder.is_dir():
        raise MissingPart(f"The models folder {folder} does not exist. Make it and put model folders or files in it.")
    return folder


def _folder_model(folder: Path, name: str) -> Found:
    code = next(_python_files(folder, DEPTH), None)
    if code is not None:
        raise UnsupportedFamily(
            f"{folder} holds Python code ({code.relative_to(folder)}), which is never run. Copy its .json, .txt and "
            ".safetensors files alone into a new folder; turn pickled weights into safetensors with workbench convert."
        )
    if var_folder.is_var(folder):
        for part in var_folder.parts(folder):
            shards(folder / part, STEMS)
        return Found(name, folder, "var", var_folder.PIPELINE)
    if (folder / "model_index.json").is_file():
        for part, (library, _) in pipeline_parts(folder).items():
            if library != "tokenizer" and (folder / part / "config.json").is_file():
                shards(folder / part, STEMS)
        return Found(name, folder, "pipeline", read_json(folder / "model_index.json")["_class_name"])
    if not (folder / "config.json").is_file():
        pickled = sorted(p for p in folder.iterdir() if p.suffix in PICKLES)
        if pickled:
            raise MissingPart(refusal(pickled[0]))
        raise MissingPart(f"{folder} has no model_index.json, so it is no diffusers model. Give the one that has.")
    config = read_json(folder / "config.json")
    cls = str(config.get("_class_name") or next(iter(config.get("architectures") or ()), "") or "")
    kind = str(config.get("model_type") or "")
    if kind == "clip":
        shards(folder, STEMS)
        return Found(name, folder, "clip", "CLIPModel")
    if cls.endswith("Judge"):
        shards(folder, STEMS)
        return Found(name, folder, "judge", cls)
    hint = " It is one part of a model: give the folder above it." if cls in _PART_CLASSES else ""
    raise UnsupportedFamily(
        f"{folder} is a {cls or kind or 'model of unknown class'}; read here: {PIPELINES[0]}, {PIPELINES[1]} folders, "
        f"their single .safetensors files, and CLIPModel.{hint}"
    )


def _part(folder: Path, name: str, value: Any, kind: Kind) -> tuple[str, str]:
    library, cls = value
    if name == "scheduler":
        right = library == "diffusers" and re.fullmatch(r"[A-Za-z0-9]+Scheduler", str(cls)) is not None
        wanted = "a scheduler of diffusers"
    else:
        right = library in ("diffusers", "transformers") and cls in kind.parts[name]
        wanted = " or ".join(kind.parts[name])
    if not right:
        raise UnsupportedFamily(f"{folder}: {name} is {library}.{cls}; it has to be {wanted}.")
    return str(library), str(cls)


def _named(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and value[1] is not None


def _python_files(folder: Path, depth: int) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.is_dir() and depth > 0:
            yield from _python_files(path, depth - 1)
        elif path.suffix in (".py", ".pyc", ".pyd", ".so"):
            yield path


def _candidates(folder: Path, depth: int) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.is_file() and path.suffix.lower() in (".safetensors", *PICKLES):
            yield path
        elif path.is_dir():
            if (path / "model_index.json").is_file() or (path / "config.json").is_file():
                yield path
            elif depth > 1:
                yield from _candidates(path, depth - 1)


def _listed(path: Path, place: Path) -> Listed:
    name = path.relative_to(place).as_posix()
    size = path.stat().st_size if path.is_file() else sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    try:
        found = inspect(path, name.removesuffix(".safetensors"))
    except ModelError as error:
        return Listed(name, path, "", "", size, str(error))
    return Listed(found.name, path, found.family, found.cls, size)
