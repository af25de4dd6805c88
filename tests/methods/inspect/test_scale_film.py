"""Scale film: prefixes, additions and omissions of a tiny decoder by scale."""

import numpy as np
import pytest
import torch

from tests.tiny import tiny_sd, tiny_var
from workbench.core.ask import Ask
from workbench.core.errors import AskError, UnsupportedFamily
from workbench.core.report import Curve, Film, Table
from workbench.core.scene import Scene
from workbench.core.tape import Step
from workbench.methods.decode.var import Var
from workbench.methods.inspect import scale_film
from workbench.methods.inspect.scale_film import ScaleFilm

ASK = Ask(prompts=("class:1", "class:2"), seeds=(3, 4))
SAMPLER = Var(guidance=1.5, top_p=0.9)


def scene(prediction: str = "residual") -> Scene:
    return Scene(tiny_var(prediction=prediction), SAMPLER, (), ASK)


def states() -> tuple[np.ndarray, list[torch.Tensor]]:
    taken: list[Step] = []
    images = scene().run(tap=taken.append)
    return images.permute(0, 2, 3, 1).numpy(), [step.x for step in taken if step.x is not None]


def test_half_grey_is_no_change() -> None:
    before = np.full((1, 2, 2, 3), 40, np.uint8)
    assert (scale_film.added(before, before) == 128).all()
    assert (scale_film.added(before + 20, before) == 138).all()
    assert scale_film.added(before, None) is before


def test_settling_on_paper() -> None:
    frames = [np.full((1, 2, 2, 3), value, np.uint8) for value in (10, 40, 50)]
    distance, change = scale_film.settling(frames)
    assert distance.tolist() == [40, 10, 0]
    assert change.tolist() == [0, 30, 10]


def test_shares_are_squared_movements() -> None:
    one = torch.ones(1, 1, 2, 2)
    assert scale_film.shares([one, one, 3 * one]).tolist() == pytest.approx([0.2, 0.0, 0.8])


def test_the_prefixes_end_at_the_picture() -> None:
    images, _ = states()
    report = ScaleFilm().look(scene())
    films = [panel for panel in report.panels if isinstance(panel, Film)]
    assert report.problems() == []
    assert [film.title for film in films] == list(ASK.prompts)
    for film, image in zip(films, images, strict=True):
        assert film.frames.shape == (6, 16, 16, 3)
        assert np.array_equal(film.frames[-1], image)
    assert films[0].labels[2] == "scale 3 of 6, side 3"


def test_each_frame_is_its_slow_twin() -> None:
    _, taken = states()
    bundle = tiny_var()

    def shown(state: torch.Tensor) -> np.ndarray:
        pixels = bundle.decode(state)[0].double()
        return ((pixels / 2 + 0.5).clamp(0, 1) * 255).round().permute(1, 2, 0).numpy()

    for show in ("prefix", "addition", "without"):
        film = next(p for p in ScaleFilm(show=show).look(scene()).panels if isinstance(p, Film))
        before = torch.zeros_like(taken[0])
        for k, state in enumerate(taken):
            wanted = shown(state)
            if show == "addition" and k > 0:
                wanted = 127.5 + (wanted - shown(taken[k - 1])) / 2
            if show == "without":
                wanted = shown(taken[-1] - (state - before))
            assert np.abs(film.frames[k] - wanted).max() <= 1
            before = state


def test_the_shares_of_the_table_sum_to_one() -> None:
    table = next(panel for panel in ScaleFilm().look(scene()).panels if isinstance(panel, Table))
    assert sum(float(row[-1]) for row in table.rows) == pytest.approx(1, abs=1e-3)
    curve = next(panel for panel in ScaleFilm().look(scene()).panels if isinstance(panel, Curve))
    assert curve.ys[0, -1] == 0


def test_a_model_that_draws_every_scale_anew_has_prefixes_and_no_omissions() -> None:
    report = ScaleFilm().look(scene("direct"))
    assert report.problems() == []
    with pytest.raises(AskError, match="anew"):
        ScaleFilm(show="without").look(scene("direct"))


def test_a_denoiser_is_refused() -> None:
    with pytest.raises(UnsupportedFamily):
        ScaleFilm().check(tiny_sd())
