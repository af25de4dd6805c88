"""The student's recipe without training: losses against slow twins, paths, the file it writes, and what ships."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch.testing import assert_close

from tests.tiny import sd_pipe, tiny_sd
from workbench.blocks.adapters import read_adapter
from workbench.core.bundle import Bundle
from workbench.models.unet import from_pipeline
from workbench.training import paths, student, unet
from workbench.training.factors import Factors

BARS = unet.schedule().alphas_cumprod


class Told(torch.nn.Module):
    """A network that answers a known function of what it is told, in float64: x times a number, and the text's mean."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor(0.5, dtype=torch.float64))

    def forward(self, x: Tensor, t: Tensor, states: Tensor, return_dict: bool = False, **told: Any) -> tuple[Tensor]:
        shift = states.mean((1, 2))[:, None, None, None] + t.double()[:, None, None, None] / 1000
        return (self.weight * x + shift,)


class Held(torch.nn.Module):
    """In the place of factors: one number, added to the network's."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(value, dtype=torch.float64))

    def merged(self, frozen: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"weight": frozen["weight"] + self.value}


class Fixed:
    """In the place of a generator: chosen indices, and shares that are all `share`."""

    def __init__(self, rows: list[int], share: float = 0.0) -> None:
        self.rows, self.share = np.array(rows), share

    def choice(self, *_: Any, **__: Any) -> Any:
        return self.rows

    def random(self, count: int) -> Any:
        return np.full(count, self.share)

    def integers(self, low: int, high: int, size: int | None = None) -> Any:
        return self.rows[0] if size is None else self.rows


def desk(value: float = 0.25, **wishes: Any) -> student.Desk:
    net = Told()
    made = student.Desk(net, Held(value), BARS.double(), student.Wishes(guidance=3.0, **wishes))  # type: ignore[arg-type]
    made.net.weight.requires_grad_(False)
    return made


def batch(count: int, path: Tensor | None = None) -> student.Batch:
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    clean = draw(count, 1, 1, 2) if path is None else path[:, -1]
    return student.Batch(clean, draw(count, 1, 1, 2), draw(count, 2, 3), draw(1, 2, 3), 0.0, path)


def says(weight: float, x: float, t: int, words: float) -> float:
    return weight * x + words + t / 1000


def turned(x: float, v: float, bar: float, to: float) -> float:
    a, s = bar**0.5, (1 - bar) ** 0.5
    return to**0.5 * (a * x - s * v) + (1 - to) ** 0.5 * (s * x + a * v)


def answer(weight: float, x: float, t: int, words: float) -> float:
    bar, below = float(BARS.double()[t]), (10 * t) ** 2 + 0.25
    clean = bar**0.5 * x - (1 - bar) ** 0.5 * says(weight, x, t, words)
    return 0.25 / below * x + 10 * t / below**0.5 * clean


TIMES = [999, 749, 499, 249]


@pytest.mark.parametrize("hops", [1, 2, 4])
def test_consistency_is_the_slow_twins(hops: int) -> None:
    """Row i starts at time i of the grid; row 0 at pure noise. Everything once more with plain numbers."""
    room, given, bars = desk(hops=hops), batch(4), BARS.double()
    loss = student.consistency(room, given, Fixed([0, 1, 2, 3]))  # type: ignore[arg-type]
    misses = []
    for row, t in enumerate(TIMES):
        words, none = float(given.states[row].mean()), float(given.none.mean())
        for clean, noise in zip(given.clean[row].flatten().tolist(), given.noise[row].flatten().tolist(), strict=True):
            bar = float(bars[t])
            start = noise if row == 0 else bar**0.5 * clean + (1 - bar) ** 0.5 * noise
            x, at = start, row
            for _ in range(hops):
                if at == 4:
                    break
                now, after = TIMES[at], ([*TIMES, -1])[at + 1]
                without, with_ = says(0.5, x, now, none), says(0.5, x, now, words)
                x = turned(
                    x, without + 3 * (with_ - without), float(bars[now]), 1.0 if after < 0 else float(bars[after])
                )
                at += 1
            goal = x if at == 4 else answer(0.75, x, TIMES[at], words)
            miss = answer(0.75, start, t, words) - goal
            misses.append((miss**2 + student.HUBER**2) ** 0.5 - student.HUBER)
    assert loss.item() == pytest.approx(sum(misses) / len(misses), rel=1e-4)  # autocast may round nothing here


def test_slct_adds_the_plain_error_of_the_lowest_time() -> None:
    """A batch at the lowest time alone: Cauchy towards the teacher's clean picture, and the error of the truth."""
    room, given = desk(hops=1, losses="slct"), batch(2)
    loss = student.consistency(room, given, Fixed([3, 3]))  # type: ignore[arg-type]
    bar, c, total = float(BARS.double()[249]), student.flow.cauchy_scale(4), 0.0
    for row in range(2):
        words, none, wrong, square = float(given.states[row].mean()), float(given.none.mean()), 0.0, 0.0
        for clean, noise in zip(given.clean[row].flatten().tolist(), given.noise[row].flatten().tolist(), strict=True):
            x = bar**0.5 * clean + (1 - bar) ** 0.5 * noise
            without, with_ = says(0.5, x, 249, none), says(0.5, x, 249, words)
            made = answer(0.75, x, 249, words)
            wrong += (made - turned(x, without + 3 * (with_ - without), bar, 1.0)) ** 2 / 2
            square += (made - clean) ** 2
        total += np.log(1 + wrong / (2 * c * c)) / 2 + square / 4
    assert loss.item() == pytest.approx(total, rel=1e-4)


def test_on_a_path_the_goal_is_its_end_and_fresh_noise_is_of_the_end() -> None:
    path = torch.randn(2, 5, 1, 1, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for share, fresh in ((0.0, 1.0), (0.9, 0.5)):  # the second: 0.9 >= 0.5, so the path's own state
        room, given = desk(paths=2, fresh=fresh), batch(2, path)
        loss = student.consistency(room, given, Fixed([2, 0], share))  # type: ignore[arg-type]
        bar, misses = float(BARS.double()[499]), []
        for row, t in ((0, 499), (1, 999)):
            for i in range(2):
                end, x = float(path[row, -1, 0, 0, i]), float(path[row, 2 if row == 0 else 0, 0, 0, i])
                if row == 0 and fresh == 1.0:
                    x = bar**0.5 * end + (1 - bar) ** 0.5 * float(given.noise[row, 0, 0, i])
                miss = answer(0.75, x, t, float(given.states[row].mean())) - end
                misses.append((miss**2 + student.HUBER**2) ** 0.5 - student.HUBER)
        assert loss.item() == pytest.approx(sum(misses) / 4, rel=1e-4)


@pytest.mark.parametrize("power", [0, 1, 2])
def test_shortcut_is_the_slow_twins(power: int) -> None:
    """One length for the batch: the shortest against the guided teacher, a longer one against two halves."""
    room, given, bars = desk(method="shortcut"), batch(1), BARS.double()
    loss = student.shortcut(room, given, Fixed([power], 0.0))  # type: ignore[arg-type]
    words, none, misses = float(given.states[0].mean()), float(given.none.mean()), []
    ends = [*TIMES, -1]
    level = lambda t: 1.0 if t < 0 else float(bars[t])  # noqa: E731
    for x in given.noise[0].flatten().tolist():  # share 0 < first: from pure noise
        if power == 0:
            without, with_ = says(0.5, x, 999, none), says(0.5, x, 999, words)
            goal = without + 3 * (with_ - without)
        else:
            middle, end = ends[2**power // 2], ends[2**power]
            half = turned(x, says(0.75, x, 999, words), level(999), level(middle))
            there = turned(half, says(0.75, half, middle, words), level(middle), level(end))
            angle = np.arccos(level(999) ** 0.5) - np.arccos(level(end) ** 0.5)
            goal = (np.cos(angle) * x - there) / np.sin(angle)
        misses.append(((says(0.75, x, 999, words) - goal) ** 2 + student.HUBER**2) ** 0.5 - student.HUBER)
    assert loss.item() == pytest.approx(sum(misses) / 2, rel=1e-4)


def test_the_goal_has_no_gradient_and_the_student_has() -> None:
    room = desk(hops=1)
    student.consistency(room, batch(4), Fixed([0, 1, 2, 3])).backward()  # type: ignore[arg-type]
    assert room.student.value.grad is not None
    assert room.net.weight.grad is None


def test_noise_is_matched_as_wished() -> None:
    clean = torch.randn(6, 8, 2, 2, generator=torch.Generator().manual_seed(0))

    def far(**wishes: Any) -> float:
        noise = student.noise_for(clean, student.Wishes(**wishes), torch.Generator().manual_seed(1))
        return float((noise - clean).square().sum())

    assert far(losses="slct") < far()
    assert far(noise="immiscible") < far()


def tiny_net() -> UNet2DConditionModel:
    return sd_pipe(seed=5).unet


def test_untrained_factors_change_nothing_and_merged_ones_are_the_sum() -> None:
    net = tiny_net()
    frozen = dict(net.named_parameters())
    made = Factors(net, 2)
    assert all(torch.equal(value, frozen[name]) for name, value in made.merged(frozen).items())
    with torch.no_grad():
        made.up[0].fill_(1.0)
    name = f"{made.paths[0]}.weight"
    sum_ = frozen[name] + (made.up[0] @ made.down[0]).view(frozen[name].shape)
    assert_close(made.merged(frozen)[name], sum_)


@torch.no_grad()
def test_what_is_written_acts_live_as_it_did_in_training(tmp_path: Path) -> None:
    """The merged network of the recipe against the base with the file worn, on the tiny model: fp16 factors."""
    from torch.func import functional_call

    from workbench.blocks.denoise import condition
    from workbench.blocks.students import studying
    from workbench.core.ask import Ask

    pipe = sd_pipe(seed=5)
    bundle: Bundle = from_pipeline(pipe, name="tiny", digest="d1")
    made = Factors(pipe.unet, 2, seed=1)
    for index, up in enumerate(made.up):
        up.copy_(0.05 * torch.randn(up.shape, generator=torch.Generator().manual_seed(index)))
    made.load_state_dict({key: value.half().float() for key, value in made.state_dict().items()})
    made.write(tmp_path, made.state_dict(), base="d1")
    (tmp_path / "training.json").write_text(json.dumps({"base": "d1"}))
    cond = condition(bundle, Ask(prompts=["a cat"]), False, (16, 16))
    x, t = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([400])
    merged = made.merged(dict(pipe.unet.named_parameters()))
    goal = functional_call(pipe.unet, merged, (x, t, cond.text.states), {"return_dict": False})[0]
    with studying(bundle, str(tmp_path)):
        assert_close(bundle.predict(x, t, cond), goal, atol=1e-4, rtol=0)  # other order of sums in float32
    report = read_adapter(bundle, tmp_path).report
    assert all(line.fate in ("matched", "renamed") for line in report.lines)


def test_a_path_is_the_solvers_own_run() -> None:
    noise = torch.randn(2, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    states, none = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(1)), torch.zeros(1, 3, 4)
    teach = lambda x, t, states, none: 0.3 * x + states.mean((1, 2))[:, None, None, None]  # noqa: E731
    path = paths.walk(teach, noise, states, none, steps=8, points=4)
    assert path.shape == (2, 5, 1, 2, 2)
    assert torch.equal(path[:, 0], noise)
    scheduler = unet.schedule()
    scheduler.set_timesteps(8)
    assert scheduler.timesteps[::2].tolist() == student.flow.grid(4)
    x = noise
    for t in scheduler.timesteps:
        x = scheduler.step(teach(x, t, states, none), t, x).prev_sample
    assert_close(path[:, -1], x)


def test_paths_are_walked_once_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "scratch", lambda: tmp_path)
    calls: list[int] = []

    def teach(x: Tensor, t: Tensor, states: Tensor, none: Tensor) -> Tensor:
        calls.append(len(x))
        return 0.1 * x

    kept = paths.Paths("0123456789abcdef", guidance=5.0, steps=4, points=4)
    texts = lambda said: torch.zeros(len(said), 3, 4)  # noqa: E731
    for _ in range(2):
        kept.fill(teach, texts, range(2))
    assert calls == [paths.FEW] * 8
    kept.refresh(3)
    assert kept.states.shape == (2 * paths.FEW, 5, 8, 16, 16)
    assert len(kept.captions) == 2 * paths.FEW


shipped = pytest.mark.skipif(not (student.FOLDER / "training.json").exists(), reason="no student ships yet")


@shipped
def test_the_shipped_student_belongs_to_the_shipped_default() -> None:
    facts = json.loads((student.FOLDER / "training.json").read_text("utf-8"))
    assert facts["base"] == student.base(), "the default has changed: distil the student anew (workbench train student)"


@shipped
def test_the_shipped_student_is_small_and_fits_whole() -> None:
    from workbench.models.load import load

    assert sum(path.stat().st_size for path in student.FOLDER.iterdir()) < 800_000
    adapter = read_adapter(load(), student.FOLDER)
    assert all(line.fate in ("matched", "renamed") for line in adapter.report.lines)
    assert all(np.isfinite(value) for value in adapter.low_rank.energy().values())


def test_the_tiny_default_is_no_base_of_the_shipped_one() -> None:
    assert tiny_sd().digest != student.base()
