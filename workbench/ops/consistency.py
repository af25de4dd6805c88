"""Few-step students as equations: clean picture and noise from a velocity, jumps along the ODE, losses, schedules.

Noise level: bar is the cumulated alpha of a timestep, a = sqrt(bar), s = sqrt(1 - bar), x = a x0 + s e,
velocity v = a e - s x0. As rotations (a = cos p, s = sin p): x at p - d is cos(d) x - sin(d) v.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Rows = Float[Tensor, "B C h w"]
Level = Float[Tensor, "B 1 1 1"]

SIGMA_DATA, SCALING = 0.5, 10.0


def parts(x: Rows, v: Rows, bar: Level) -> tuple[Rows, Rows]:
    """The clean picture and the noise that a velocity means: x0 = a x - s v, e = s x + a v."""
    a, s = bar.sqrt(), (1 - bar).sqrt()
    return a * x - s * v, s * x + a * v


def jump(x: Rows, v: Rows, bar: Level, to: Level) -> Rows:
    """One step of DDIM without noise, from level `bar` to level `to`: a' x0 + s' e."""
    clean, noise = parts(x, v, bar)
    return to.sqrt() * clean + (1 - to).sqrt() * noise


def velocity_between(x: Rows, end: Rows, bar: Level, to: Level) -> Rows:
    """The velocity whose one `jump` from x at `bar` ends in `end` at `to`: (cos(d) x - end) / sin(d)."""
    cosine = (bar * to).sqrt() + ((1 - bar) * (1 - to)).sqrt()
    sine = (to * (1 - bar)).sqrt() - (bar * (1 - to)).sqrt()
    return (cosine * x - end) / sine


def boundary(t: Float[Tensor, " B"]) -> tuple[Level, Level]:
    """(c_skip, c_out) of Luo et al. 2023 at timesteps 0..999: at 0 a picture is its own answer.

    c_skip = d^2 / ((10 t)^2 + d^2), c_out = 10 t / sqrt((10 t)^2 + d^2), d = 0.5; as in diffusers' LCMScheduler.
    """
    scaled = (SCALING * t)[:, None, None, None]
    below = scaled.square() + SIGMA_DATA**2
    return SIGMA_DATA**2 / below, scaled / below.sqrt()


def cauchy(made: Rows, goal: Rows, c: float) -> Float[Tensor, " B"]:
    """log(1 + ||d||^2 / (2 c^2)), d as root mean square so that c does not depend on the number of values.

    Dao et al. 2025 (sLCT): far misses weigh little, so one picture of several is aimed at, not their mean.
    """
    return torch.log1p((made - goal).square().flatten(1).mean(1) / (2 * c * c))


def huber(made: Rows, goal: Rows, c: float) -> Float[Tensor, " B"]:
    """sqrt(d^2 + c^2) - c, mean over values: the loss of LCM."""
    return ((made - goal).square().add(c * c).sqrt() - c).flatten(1).mean(1)


def cauchy_scale(points: int) -> float:
    """c for a grid of N points, exp(-1.18 ln(N - 1) - 0.72): finer grids miss by less (Dao et al. 2025)."""
    return math.exp(-1.18 * math.log(max(points - 1, 1)) - 0.72)


def grid_size(part: float, first: int, last: int) -> int:
    """Points of the time grid after a share of training: doubled at even intervals from `first` to `last` (iCT).

    >>> [grid_size(part, 4, 16) for part in (0.0, 0.3, 0.4, 0.7, 1.0)]
    [4, 4, 8, 16, 16]
    """
    doublings = max(round(math.log2(last / first)), 0)
    return min(last, first * 2 ** min(int(part * (doublings + 1)), doublings))


def grid(points: int, steps: int = 1000) -> list[int]:
    """Timesteps of N even points from high to low, the last step of each interval: 999, 749, 499, 249 for four."""
    return [round(steps * n / points) - 1 for n in range(points, 0, -1)]


def doubled(x: Rows, bars: tuple[Level, Level, Level], speak: Callable[[Rows, int], Rows]) -> Rows:
    """The velocity of one long jump that equals two short ones (Frans et al. 2024, as rotations).

    `bars` are the levels of start, middle and end; speak(x, 0 or 1) is the velocity at the start or in the middle.
    """
    start, middle, end = bars
    halfway = jump(x, speak(x, 0), start, middle)
    return velocity_between(x, jump(halfway, speak(halfway, 1), middle, end), start, end)


def clean_of(kind: str, x: Rows, output: Rows, bar: Tensor) -> Rows:
    """The clean picture that a network's answer means: (x - s e) / a, a x - s v, or the answer itself."""
    a, s = bar.sqrt(), (1 - bar).sqrt()
    if kind == "epsilon":
        return (x - s * output) / a
    return a * x - s * output if kind == "v_prediction" else output


def output_of(kind: str, x: Rows, clean: Rows, bar: Tensor) -> Rows:
    """The answer of a network that means a clean picture: the inverse of `clean_of`."""
    a, s = bar.sqrt(), (1 - bar).sqrt()
    if kind == "epsilon":
        return (x - a * clean) / s
    return (a * x - clean) / s if kind == "v_prediction" else clean
