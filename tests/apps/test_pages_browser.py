"""Topic pages, presets, links, the dark theme and failures in Debian's Chromium."""

import io
import re
import time
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from apps.guard import COOKIE
from apps.origin import BRUSH
from apps.pages.generate import Generate
from tests.apps.browser import MARKS, PATIENCE, Open, draw, newest, set_up
from tests.apps.conftest import Served
from tests.apps.pages import RECIPE, page_of, request
from tests.tiny import tiny_var
from workbench.runs.shelf import plan_inside

playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
pytestmark = MARKS


def _tab(page: Any, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def _says(page: Any, selector: str, text: str) -> None:
    playwright.expect(page.locator(selector)).to_contain_text(text, timeout=PATIENCE)


def test_every_page_says_in_one_line_what_is_missing(opened: Open) -> None:
    page = opened()
    pages = {"Generate": "stage", "Compare": "compare-stage", "Grid": "grid-stage", "Inspect": "inspect-stage",
             "Look closer": "closer-stage", "Erase": "erase-stage", "Accelerate": "accelerate-stage",
             "Compose": "compose-stage", "Decode": "decode-stage"}  # fmt: skip
    for name, stage in pages.items():
        _tab(page, name)
        page.locator("#" + stage.replace("stage", "go")).click()
        _says(page, f"#{stage} [role=alert]", "That did not work.")
        text = page.locator(f"#{stage} [role=alert]").inner_text()
        assert "\n" not in text.strip(), name
        assert "Traceback" not in text, name


def test_ways_are_raced(opened: Open) -> None:
    page = opened()
    set_up(page, "a quick cat", steps=2)
    _tab(page, "Accelerate")
    page.locator("#accelerate-seeds input").first.fill("1")
    page.locator("#accelerate-go").click()
    _says(page, "#accelerate-stage", "in turns")
    playwright.expect(page.locator("#accelerate-grid img")).to_have_count(2, timeout=PATIENCE)
    page.get_by_text("times as fast").first.wait_for()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that takes its time, so that a job outlasts the slowest browser."""
    diffusers: Any = import_module("diffusers")
    forward = diffusers.UNet2DConditionModel.forward

    @wraps(forward)
    def slow(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.03)
        return forward(*args, **kwargs)

    monkeypatch.setattr(diffusers.UNet2DConditionModel, "forward", slow)


@pytest.mark.usefixtures("patient")
def test_a_topic_page_goes_on_showing_its_job_after_a_reload(opened: Open) -> None:
    page = opened()
    set_up(page, "a lasting cat", steps=900)
    _tab(page, "Accelerate")
    page.locator("#accelerate-go").click()
    _says(page, "#accelerate-stage", "of 900")
    page.reload()
    _tab(page, "Accelerate")
    _says(page, "#accelerate-stage", "of 900")
    page.locator("#accelerate-cancel").click()
    _says(page, "#accelerate-stage", "Stopped")
    _tab(page, "Generate")
    set_up(page, "a lasting cat", steps=2)
    _tab(page, "Accelerate")
    page.locator("#accelerate-seeds input").first.fill("1")
    page.locator("#accelerate-go").click()
    playwright.expect(page.locator("#accelerate-grid img")).to_have_count(2, timeout=PATIENCE)
    page.get_by_text("times as fast").first.wait_for()
    page.reload()
    _tab(page, "Accelerate")
    playwright.expect(page.locator("#accelerate-grid img")).to_have_count(2, timeout=PATIENCE)
    page.get_by_text("times as fast").first.wait_for()


def test_adapters_are_added_by_name_weighted_and_drawn(opened: Open, served: Served) -> None:
    page = opened()
    set_up(page, "a worn cat", steps=2)
    _tab(page, "Compose")
    page.locator("#compose-add input").click()
    page.locator("#compose-add input").fill("random:1")
    page.locator("#compose-add input").press("Enter")
    page.locator(".wb-item-head").wait_for()
    page.get_by_label("number input for Weight").fill("0.5")
    page.locator("#compose-seeds input").first.fill("1")
    page.locator("#compose-go").click()
    playwright.expect(page.locator("#compose-grid img")).to_have_count(2, timeout=PATIENCE)
    drawn = newest(served.root)
    assert plan_inside(drawn).edits[0].weights == (0.5,)
    page.locator("#compose-report").click()
    page.get_by_text("What was found").first.wait_for()


def test_scales_are_shown_as_they_are_told(
    opened: Open,
    served: Served,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(served.demo.desk, "run_plan", lambda plan: tiny_var())
    page = opened()
    _tab(page, "Decode")
    page.locator("#decode-prompt textarea, #decode-prompt input").first.fill("a cat")
    page.locator("#decode-model input").fill("tiny-var")
    page.locator("#decode-model input").press("Enter")
    page.locator("#decode-go").click()
    scales = len(tiny_var().about["grids"])
    playwright.expect(page.locator("#decode-grid figure")).to_have_count(scales, timeout=PATIENCE)
    page.locator("#decode-picture img").wait_for()


def test_a_concept_is_erased_on_its_page(opened: Open) -> None:
    page = opened()
    set_up(page, "a cat", steps=2)
    _tab(page, "Erase")
    page.locator("#erase-targets input").click()
    page.locator("#erase-targets input").fill("cat face")
    page.locator("#erase-targets input").press("Enter")
    page.locator("#brand h1").click()  # closes the list
    page.locator("#erase-go").click()
    playwright.expect(page.locator("#erase-grid img")).to_have_count(2, timeout=PATIENCE)


def test_a_restored_mask_is_seen_on_the_canvas(
    opened: Open,
    chromium: Any,
    served: Served,
    tmp_path: Path,
) -> None:
    Image.new("RGB", (64, 64), "#204060").save(tmp_path / "start.png")
    layer = Image.new("RGBA", (64, 64))
    layer.paste((255, 79, 139, 255), (8, 8, 40, 40))
    layer.save(tmp_path / "layer.png")
    canvas = {"background": str(tmp_path / "start.png"), "layers": [str(tmp_path / "layer.png")], "composite": None}
    list(page_of(served, Generate).generate(request("masker"), *RECIPE, False, canvas, 0, None))
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    context.add_cookies([{"name": COOKIE, "value": "masker", "url": served.url}])
    page = opened(context=context)
    _tab(page, "Gallery")
    page.locator("#history button img").first.click()
    _says(page, "#history-facts", "a picture with a mask")
    page.locator("#history-restore").click()
    shown = page.locator("#canvas canvas").last
    shown.wait_for()
    ink = np.array([int(BRUSH[at : at + 2], 16) for at in (1, 3, 5)])
    for _ in range(40):
        pixels = np.asarray(Image.open(io.BytesIO(shown.screenshot())).convert("RGB")).astype(int)
        share = float((np.abs(pixels - ink).max(-1) < 12).mean())
        if share > 0.02:
            break
        page.wait_for_timeout(500)
    assert share > 0.02
    asked: list[str] = []
    page.on("request", lambda sent: asked.append(sent.url))
    page.wait_for_timeout(3000)
    assert len(asked) < 12  # Gradio's own layers are asked for without end


def test_presets_links_and_copies_carry_the_settings(opened: Open) -> None:
    page = opened()
    draw(page, "a kept preset", steps=2)
    page.locator("#result-copy button").first.click()
    _says(page, "#result-python", "a kept preset")
    page.locator("#result-copy").get_by_role("tab", name="Command").click()
    _says(page, "#result-command", "workbench sample")
    page.locator("#presets button").first.click()
    page.locator("#preset input").click()
    page.locator("#preset input").fill("mine")
    page.locator("#preset input").press("Enter")
    page.locator("#preset-save").click()
    page.locator("#link").click()
    link = page.locator("#link-text textarea, #link-text input").first
    link.wait_for()
    playwright.expect(link).to_have_value(re.compile(r"\?recipe=."), timeout=PATIENCE)
    address = link.input_value()
    page.locator("#prompt textarea").fill("something else")
    page.reload()
    page.locator("#sampler-diffuse-steps input").wait_for()
    page.locator("#presets button").first.click()
    page.locator("#preset input").click()
    page.locator("#preset [role=option]", has_text="mine").first.click()
    playwright.expect(page.locator("#prompt textarea")).to_have_value("a kept preset", timeout=PATIENCE)
    other = opened("/?" + address.partition("?")[2])
    playwright.expect(other.locator("#prompt textarea")).to_have_value("a kept preset", timeout=PATIENCE)
    playwright.expect(other.locator("#sampler-diffuse-steps input")).to_have_value("2", timeout=PATIENCE)


def test_the_dark_theme_is_kept(opened: Open) -> None:
    page = opened()
    body, colour = page.locator("body"), "getComputedStyle(document.querySelector('#prompt')).backgroundColor"
    light = page.evaluate(colour)
    page.locator("#theme-switch").click()
    playwright.expect(body).to_have_class(re.compile(r"\bdark\b"), timeout=PATIENCE)
    assert page.evaluate(colour) != light
    page.reload()
    playwright.expect(body).to_have_class(re.compile(r"\bdark\b"), timeout=PATIENCE)
