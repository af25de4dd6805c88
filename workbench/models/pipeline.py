"""A model folder or a single file as a diffusers pipeline with every part checked against its configuration."""

import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from workbench.core.errors import CheckpointMismatch, MissingPart, ModelError, UnsupportedFamily
from workbench.models import files, single
from workbench.models.weights import header, read_json, shards

#: Weights that older programs wrote and newer ones work out.
_IGNORED = ("position_ids",)


@contextmanager
def quiet() -> Iterator[None]:
    """diffusers and transformers without progress bars and remarks; their levels come back afterwards."""
    import diffusers.utils.logging as ours
    import transformers.utils.logging as theirs

    levels = ours.get_verbosity(), theirs.get_verbosity()
    bars = ours.is_progress_bar_enabled(), theirs.is_progress_bar_enabled()
    for log in (ours, theirs):
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # diffusers mends old configurations and says so each time
            yield
    finally:
        for log, level, bar in zip((ours, theirs), levels, bars, strict=True):
            log.set_verbosity(level)
            if bar:
                log.enable_progress_bar()


def read_pipeline(found: files.Found, dtype: torch.dtype) -> Any:
    """A pipeline of the folder's own class on the CPU in a dtype; safety checkers are left out.

    Raises `CheckpointMismatch` when weights and configuration do not belong together.
    """
    with quiet():
        return _from_file(found.path, dtype) if found.layout == "single" else _from_folder(found, dtype)


def read_module(cls: Any, folder: Path, dtype: torch.dtype) -> Any:
    """One part from its folder: a diffusers or transformers class, from safetensors, with no weight made up.

    Raises `CheckpointMismatch` naming the part and the first weight that does not fit.
    """
    _, variant = shards(folder, files.STEMS)
    options: dict[str, Any] = {"dtype" if _is_transformers(cls) else "torch_dtype": dtype}
    if variant:
        options["variant"] = variant
    with part_errors(folder):
        module, facts = cls.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, output_loading_info=True, **options)  # fmt: skip
    wrong = {what: _names(facts.get(f"{what}_keys", ())) for what in ("missing", "unexpected", "mismatched")}
    _refuse_wrong(folder, wrong)
    return module.eval()


def read_words(cls: Any, folder: Path) -> Any:
    """A tokenizer from its folder. Raises `MissingPart` without a vocabulary, which transformers would let pass."""
    there = {path.name for path in folder.iterdir()}
    if not there & {"tokenizer.json", "spiece.model"} and not {"vocab.json", "merges.txt"} <= there:
        raise MissingPart(f"{folder} holds no vocabulary. It should hold tokenizer.json, or vocab.json and merges.txt.")
    return cls.from_pretrained(folder, local_files_only=True)


@contextmanager
def part_errors(folder: Path) -> Iterator[None]:
    """Turn whatever a library raises over a bad folder into one line of ours."""
    try:
        yield
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # libraries raise what they like over a bad configuration
        why = " ".join((str(error).strip() or type(error).__name__).split())
        why = why.partition(" If you want")[0].rstrip(".")  # a library's advice to load it nonetheless
        raise CheckpointMismatch(
            f"{folder} cannot be read: {why[:300]}. Its configuration and weights do not belong together, or a file is "
            "damaged; download the model again."
        ) from None


def _from_folder(found: files.Found, dtype: torch.dtype) -> Any:
    import diffusers
    import transformers

    parts: dict[str, Any] = {}
    for part, (library, name) in files.pipeline_parts(found.path).items():
        cls = getattr(diffusers if library == "diffusers" else transformers, name, None)
        if cls is None:
            raise UnsupportedFamily(
                f"{found.path}: the installed {library} has no {name}, which {part} is. Update {library}."
            )
        folder = found.path / part
        if part.startswith("tokenizer") or part == "scheduler":
            with part_errors(folder):
                parts[part] = read_words(cls, folder) if part.startswith("tokenizer") else cls.from_pretrained(folder)
        else:
            parts[part] = read_module(cls, folder, dtype)
    with part_errors(found.path):
        return assemble(found.cls, parts, read_json(found.path / "model_index.json"))


def assemble(name: str, parts: Mapping[str, Any], settings: Mapping[str, Any]) -> Any:
    """A pipeline of diffusers from parts; what it takes besides and was not given is None or off."""
    import diffusers

    cls = getattr(diffusers, name)
    takes = inspect.signature(cls.__init__).parameters
    off = {"requires_safety_checker": False, "add_watermarker": False}
    wanted = [key for key, value in takes.items() if value.default is value.empty and key != "self"]
    given: dict[str, Any] = {**dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder", *wanted)), **off}
    given |= parts
    if "force_zeros_for_empty_prompt" in settings:
        given["force_zeros_for_empty_prompt"] = bool(settings["force_zeros_for_empty_prompt"])
    with quiet():
        return cls(**{key: value for key, value in given.items() if key in takes})


def _from_file(path: Path, dtype: torch.dtype) -> Any:
    import diffusers

    tensors, meta = header(path)
    folder = single.configuration(single.detect(path.name, tensors, meta))
    index = read_json(folder / "model_index.json")
    with part_errors(path):
        wrong = _beforehand(folder, tensors)
    _refuse_wrong(path, wrong)
    cls = getattr(diffusers, index["_class_name"])
    with part_errors(path):
        pipe = cls.from_single_file(str(path), config=str(folder), local_files_only=True, torch_dtype=dtype)
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        module = getattr(pipe, part, None)
        if module is not None:
            empty = [name for name, weight in module.named_parameters() if weight.is_meta]
            _refuse_wrong(path, {"missing": [f"{part}.{name}" for name in empty]})
    return assemble(index["_class_name"], pipe.components, index)


def _beforehand(folder: Path, tensors: Mapping[str, tuple[int, ...]]) -> dict[str, list[str]]:
    """What a single file lacks for network and decoder, and what has another shape, told from its header alone."""
    import diffusers
    from diffusers.loaders import single_file_utils as ways

    wrong: dict[str, list[str]] = {"missing": [], "mismatched": []}
    with torch.device("meta"):
        there = {name: torch.empty(shape) for name, shape in tensors.items()}
        for part, cls, way in (
            ("unet", diffusers.UNet2DConditionModel, ways.convert_ldm_unet_checkpoint),
            ("vae", diffusers.AutoencoderKL, ways.convert_ldm_vae_checkpoint),
        ):
            config = read_json(folder / part / "config.json")
            empty: Any = cls.from_config(config)
            found, wanted = way(there, config=config), empty.state_dict()
            wrong["missing"] += [f"{part}.{name}" for name in wanted if name not in found]
            both = (name for name in wanted if name in found)
            wrong["mismatched"] += [f"{part}.{name}" for name in both if found[name].shape != wanted[name].shape]
    return wrong


def _refuse_wrong(place: Path, wrong: Mapping[str, list[str]]) -> None:
    wrong = {what: names for what, names in wrong.items() if names}
    if not wrong:
        return
    words = {"missing": "are not there", "unexpected": "have no place in it", "mismatched": "have another shape"}
    told = "; ".join(f"{len(names)} {words[what]} (first: {names[0]})" for what, names in wrong.items())
    raise CheckpointMismatch(
        f"{place}: the weights do not fit the configuration: {told}. They belong to another architecture; take both "
        "from the same model."
    )


def _names(keys: Any) -> list[str]:
    found = [key if isinstance(key, str) else str(key[0]) for key in keys]
    return sorted(name for name in found if not name.endswith(_IGNORED))


def _is_transformers(cls: type) -> bool:
    return cls.__module__.startswith("transformers.")
