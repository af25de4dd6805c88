"""Importing changes nothing, and costs only what it must."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.sources import ROOT

HEAVY = {"diffusers", "transformers", "gradio", "plotly", "peft", "captum", "torch_pruning", "IPython", "ipywidgets"}


def _python(code: str, cwd: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def _loaded(doing: str, cwd: Path) -> set[str]:
    """The top-level packages in memory after `doing`."""
    code = (
        f"import sys, json\n{doing}\nprint()\nprint(json.dumps(sorted({{n.partition('.')[0] for n in sys.modules}})))"
    )
    return set(json.loads(_python(code, cwd)))


def _command(*words: str) -> str:
    return f"from workbench.cli import main\ntry:\n    main({list(words)!r})\nexcept SystemExit:\n    pass"


def test_import_workbench_is_light(tmp_path: Path) -> None:
    loaded = _loaded("import workbench; dir(workbench); workbench.__version__", tmp_path)
    assert not loaded & (HEAVY | {"torch", "pydantic", "numpy"})


def test_help_needs_no_torch(tmp_path: Path) -> None:
    loaded = _loaded(_command("--help"), tmp_path)
    assert not loaded & (HEAVY | {"torch", "numpy", "PIL"})


@pytest.mark.parametrize("words", [("list",), ("list", "--topic", "generate", "--json")], ids=" ".join)
def test_list_needs_no_model_library_and_no_face(words: tuple[str, ...], tmp_path: Path) -> None:
    assert not _loaded(_command(*words), tmp_path) & HEAVY


#: What keeps Gradio and the hub quiet has to be set before they are imported, so apps/__init__ may set it.
QUIET = ("GRADIO_ANALYTICS_ENABLED", "GRADIO_TEMP_DIR", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_DISABLE_UPDATE_CHECK",
         "DO_NOT_TRACK")  # fmt: skip

SNAPSHOT = """
import importlib, json, logging, os, pkgutil, random, signal, sys, threading, warnings
import numpy, torch, PIL.Image, scipy.stats, pydantic, safetensors.torch, diffusers, transformers
for optional in ("plotly.graph_objects", "gradio", "peft", "beartype"):
    try:
        importlib.import_module(optional)
    except ImportError:
        pass
# Classes that the model libraries load late, so that what they change is not put down to us.
for name in ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "AutoencoderKL", "UNet2DConditionModel",
             "AutoencoderTiny", "DDIMScheduler", "DPMSolverMultistepScheduler"):
    getattr(diffusers, name)
for name in ("CLIPModel", "CLIPTextModel", "CLIPTextModelWithProjection", "CLIPTokenizer", "CLIPImageProcessor"):
    getattr(transformers, name, None)

def state():
    return {
        "environment": {k: v for k, v in os.environ.items() if k not in QUIET},
        "folder": os.getcwd(), "path": list(sys.path),
        "random": repr(random.getstate()), "numpy": repr(numpy.random.get_state()),
        "torch": torch.random.get_rng_state().tolist(), "dtype": str(torch.get_default_dtype()),
        "device": str(torch.get_default_device()), "threads": torch.get_num_threads(),
        "interop": torch.get_num_interop_threads(), "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "matmul": torch.get_float32_matmul_precision(), "tf32": torch.backends.cudnn.allow_tf32,
        "benchmark": torch.backends.cudnn.benchmark, "sdpa": torch.backends.cuda.flash_sdp_enabled(),
        "warnings": repr(warnings.filters), "root logger": [logging.root.level, repr(logging.root.handlers)],
        "threads alive": [t.name for t in threading.enumerate()], "excepthook": repr(sys.excepthook),
        "signals": [repr(signal.getsignal(s)) for s in (signal.SIGINT, signal.SIGTERM)],
        "pixels": PIL.Image.MAX_IMAGE_PIXELS, "files": sorted(os.listdir(".")),
        "linear": repr(torch.nn.Linear.reset_parameters),
        "attention": repr(torch.nn.functional.scaled_dot_product_attention),
    }

before = state()
changed = {}
for package in PACKAGES:
    top = importlib.import_module(package)
    names = [package] + [m.name for m in pkgutil.walk_packages(top.__path__, package + ".")]
    for name in names:
        if name.rpartition(".")[2] == "__main__" or ".spaces" in name:
            continue
        importlib.import_module(name)
        after = state()
        if after != before:
            changed[name] = sorted(key for key in after if after[key] != before[key])
            before = after
print(); print(json.dumps(changed))
"""


@pytest.mark.parametrize("package", ["workbench", "apps"])
def test_importing_any_module_changes_nothing(package: str, tmp_path: Path) -> None:
    if package == "apps":
        pytest.importorskip("gradio", reason="the app is not installed")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\nPACKAGES = [{package!r}]\nQUIET = {QUIET}\n{SNAPSHOT}"
    assert json.loads(_python(code, tmp_path)) == {}
