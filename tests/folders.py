"""A tiny pipeline on disk, made once a process: what `--model` takes in the tests of runs and of the command line."""

import atexit
import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tests.tiny import sd_pipe
from workbench.core.plan import Plan


@functools.cache
def tiny_folder() -> str:
    """The folder of a tiny Stable Diffusion pipeline: pictures of 16x16 pixels, sizes in multiples of 2."""
    root = Path(tempfile.mkdtemp(prefix="workbench-tiny-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    sd_pipe().save_pretrained(root / "tiny")
    return str(root / "tiny")


def tiny_plan(*prompts: str, **more: Any) -> Plan:
    """A plan on the tiny pipeline: three steps, two pictures at a time."""
    ask = {"prompts": prompts or ("a cat",), **more.pop("ask", {})}
    sampler = {"method": "diffuse", "steps": 3}
    return Plan(**{"model": tiny_folder(), "sampler": sampler, "ask": ask, "batch": 2, "device": "cpu", **more})
