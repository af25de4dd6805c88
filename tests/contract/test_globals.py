"""No method draws from a global generator, python's included.

Run in a process of its own: the checker of shapes, which the tests switch on, draws from python's generator itself.
"""

import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.contract import stage
from tests.tiny import tiny_sd
from workbench.core.ask import Ask
from workbench.core.bundle import Bundle
from workbench.core.catalog import catalog
from workbench.core.errors import MissingPart
from workbench.core.method import Edit, Lens, Method, Metric, Sampler
from workbench.core.scene import Scene

ROOT = Path(__file__).resolve().parents[2]
PROMPTS = ("a flat emoji of a cat", "a cat", "a cat")


def use(method: Method, bundle: Bundle) -> None:
    """Use a method once, whatever its kind."""
    ask = Ask(prompts=PROMPTS)
    match method:
        case Sampler():
            method.sample(bundle, ask, lambda step: None)
        case Edit():
            stage.drawn_with(bundle, method, ask=ask)
        case Lens():
            method.look(Scene(bundle, stage.sampler_for(bundle), (), ask))
        case Metric():
            images = torch.randint(0, 256, (3, 3, 32, 32), generator=torch.Generator().manual_seed(0))
            method.score(images.to(torch.uint8), ask, bundle)
        case _:
            raise AssertionError(f"{method!r} is of no kind")


def main() -> None:
    """Use every method; the first that moves a generator ends this with its name."""
    bundle = tiny_sd()
    use(stage.sampler_for(bundle), bundle)  # whatever a library does once, at its first use, is done
    for cls in catalog(family="unet"):
        try:
            with stage.globals_unmoved(cls.card.name):
                use(stage.quick(cls), bundle)
        except MissingPart:
            continue


def test_every_method_leaves_the_global_generators_alone() -> None:
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, __file__]
    run = subprocess.run(words, cwd=ROOT, env=surroundings, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-2000:]


if __name__ == "__main__":
    main()
