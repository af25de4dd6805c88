"""The viewer: self-contained HTML, labels escaped, sizes bounded."""

import re

import numpy as np

from workbench.core.report import Film
from workbench.view.viewer import FINEST_MAP, MOST_MAPS, film_html

PIXELS = np.zeros((16, 24, 3), np.uint8)
HOSTILE = '"><img src=http://evil.example onerror=alert(1)><script>alert(2)</script>'


def test_a_film_of_pictures_has_a_step_slider_and_shows_its_last_frame() -> None:
    text = film_html(Film(np.stack([PIXELS] * 4), ("s1", "s2", "s3", "s4"), "film"))
    assert text.count('class="wb-f"') == 4
    assert text.count(" hidden>") == 3
    assert 'type="range" min="0" max="3" value="3"' in text
    assert ">s4</output>" in text


def test_maps_over_a_picture_are_words_to_hover() -> None:
    maps = np.random.default_rng(0).random((3, 8, 8))
    text = film_html(Film(maps, ("a", "cat", "sits"), over=PIXELS))
    assert text.count('class="wb-word"') == 3
    assert text.count("onmouseover") == 3
    assert "Overlay strength" in text


def test_labels_and_titles_are_escaped() -> None:
    for film in (
        Film(np.stack([PIXELS]), (HOSTILE,), HOSTILE),
        Film(np.ones((1, 4, 4)), (HOSTILE,), HOSTILE, over=PIXELS),
    ):
        text = film_html(film)
        assert "<script" not in text
        assert "<img src=http" not in text
        assert not re.search(r'(src|href)="(?!data:)', text)


def test_long_films_are_thinned_and_say_so() -> None:
    text = film_html(Film(np.ones((100, 4, 4)), tuple(map(str, range(100)))))
    assert text.count('class="wb-f wb-sharp"') <= MOST_MAPS
    assert "of 100 shown" in text


def test_fine_maps_are_averaged_down() -> None:
    fine = film_html(Film(np.random.default_rng(0).random((1, 512, 512)), ("x",)))
    assert len(fine) < 4 * FINEST_MAP**2 * 3 + 6000
