"""Ways of drawing the same pictures, timed in turns: seconds, speed-up, likeness, and every metric that applies."""

import math
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from workbench.blocks.pictures import open_picture
from workbench.core.bundle import Bundle
from workbench.core.report import Note, Panel, Report, Table
from workbench.runs.history import Run
from workbench.runs.weigh import weigh

#: Pictures below which a time says little.
FEW = 3


def paced(ways: Sequence[tuple[str, Sequence[Run]]], bundle: Bundle) -> Report:
    """Seconds, speed-up and likeness of each way to the first; the ways hold runs of the same requests, in turns.

    Medians over the runs but the first, which warms up, where there are several. PSNR in dB, of 255 levels.
    """
    base = ways[0][1]
    warm = 1 if len(base) > 1 else 0
    lines: list[tuple[str | float, ...]] = []
    for name, runs in ways:
        seconds = statistics.median(run.seconds for run in runs[warm:])
        pairs = zip(base[warm:], runs[warm:], strict=True)
        gain = statistics.median(one.seconds / max(run.seconds, 1e-9) for one, run in pairs)
        noise = [psnr(one.pictures[0], run.pictures[0]) for one, run in zip(base, runs, strict=True)]
        lines.append((name, seconds, gain, statistics.median(noise)))
    columns = ("way", "seconds a picture", "times as fast", "PSNR (dB)")
    panels: list[Panel] = [Table(columns, tuple(lines), "Measured here, in turns, on the same seeds")]
    if len(base) < FEW:
        panels.append(Note(f"A time of {len(base) - warm} is a hint: draw {FEW} seeds or more for a firm one."))
    prompts = [run.plan.ask.prompts[0] for run in base]
    scores = weigh([[run.pictures[0] for run in runs] for _, runs in ways], prompts, [name for name, _ in ways], bundle)
    return Report((*panels, *((scores,) if scores.rows else ())))


def psnr(one: Path, other: Path) -> float:
    """Peak signal to noise of two pictures in dB; infinite for equal ones, not a number for unlike sizes."""
    a, b = (open_picture(path).astype(np.float64) for path in (one, other))
    if a.shape != b.shape:
        return float("nan")
    wrong = float(np.square(a - b).mean())
    return math.inf if wrong == 0 else 10 * math.log10(255**2 / wrong)


def memory() -> float:
    """Bytes that were held at most so far: on the GPU where one is used, else by this process."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
