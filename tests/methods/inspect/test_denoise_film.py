"""Denoise film: the last frame is the picture, the model's own x0 is shown, nothing changes by looking."""

import numpy as np
import pytest
import torch

from tests.tiny import tiny_sd, tiny_sdxl
from workbench.blocks.denoise import to_images
from workbench.core.ask import Ask
from workbench.core.patch import Patch, fingerprint
from workbench.core.report import Curve, Film
from workbench.core.scene import Scene
from workbench.methods.generate.diffuse import Diffuse
from workbench.methods.inspect.denoise_film import DenoiseFilm, changes, chosen

ASK = Ask(prompts=["a cat", "the red dog"], seeds=[1, 2])


def scene(steps: int = 4, scheduler: str = "ddim") -> Scene:
    return Scene(tiny_sd(), Diffuse(steps=steps, guidance=3.0, scheduler=scheduler), (), ASK)


def test_steps_are_spread_evenly_with_both_ends() -> None:
    assert chosen(3, 24) == {0, 1, 2}
    assert chosen(20, 2) == {0, 19}
    assert chosen(9, 5) == {0, 2, 4, 6, 8}
    assert all(len(chosen(total, 24)) == 24 and total - 1 in chosen(total, 24) for total in range(24, 200))


def test_one_film_an_image_and_a_curve_that_ends_at_zero() -> None:
    report = DenoiseFilm().look(scene())
    assert report.problems() == []
    films, curve = [p for p in report.panels if isinstance(p, Film)], report.panels[-1]
    assert isinstance(curve, Curve)
    assert [film.frames.shape for film in films] == [(4, 16, 16, 3)] * 2
    assert curve.ys[0, -1] == 0
    assert curve.ys[1, 0] == 0
    assert curve.ys[0, 0] == pytest.approx(report.numbers["first_distance"])


def test_the_last_prediction_of_a_deterministic_scheduler_is_the_picture() -> None:
    picture = scene().run().permute(0, 2, 3, 1).numpy()
    films = [p for p in DenoiseFilm().look(scene()).panels if isinstance(p, Film)]
    for image, film in zip(picture, films, strict=True):
        # DDIM's last step keeps a trace of noise (set_alpha_to_one is off), so equal to a few grey levels
        assert np.abs(film.frames[-1].astype(int) - image).max() <= 3


@torch.no_grad()
def test_frames_are_x0_by_hand_in_float64() -> None:
    states: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = []

    def spy(inner):
        def advance(x, guided, t, cond, scheduler, generators):
            states.append((x.double(), guided.double(), scheduler.alphas_cumprod[t].double()))
            return inner(x, guided, t, cond, scheduler, generators)

        return advance

    with Patch(tiny_sd()) as patch:
        patch.wrap("advance", spy)
        scene().run()
    films = [p for p in DenoiseFilm().look(scene()).panels if isinstance(p, Film)]
    for index, (x, e, a) in enumerate(states):
        slow = to_images(tiny_sd().decode(((x - (1 - a).sqrt() * e) / a.sqrt()).float())).permute(0, 2, 3, 1).numpy()
        for image, film in zip(slow, films, strict=True):
            assert np.abs(film.frames[index].astype(int) - image).max() <= 1  # rounding to a grey level


def test_the_tiny_model_gives_this_number_with_seeds_1_and_2() -> None:
    # pictures are rounded to grey levels, so a pixel that flips moves the number a little
    assert DenoiseFilm().look(scene()).numbers["first_distance"] == pytest.approx(3.5669, rel=1e-2)


def test_changes_on_paper() -> None:
    films = np.zeros((1, 3, 1, 1, 3), np.uint8)
    films[0, 0], films[0, 1] = 30, 10
    distance, change = changes(films)
    assert distance.tolist() == [30, 10, 0]
    assert change.tolist() == [0, 20, 10]


@pytest.mark.parametrize("make", [tiny_sd, tiny_sdxl])
def test_looking_leaves_the_model_as_it_was(make) -> None:
    stage = Scene(make(), Diffuse(steps=3), (), ASK)
    stage.run()  # transformers sets attributes of its own at the first call
    before = fingerprint(make())
    report = DenoiseFilm(frames=2).look(stage)
    assert fingerprint(make()) == before
    assert len(report.panels[0].labels) == 2  # type: ignore[union-attr]
