"""The app in Debian's Chromium: what a person does, waiting only on what a person sees.

Skipped with a reason where there is no Chromium (`apt-get install chromium`) or no Playwright.
"""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.apps.browser import MARKS, MODEL, PATIENCE, Open, add, draw, newest, set_up, stroke, titles
from tests.apps.conftest import Served
from workbench.runs.shelf import plan_inside

playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: pip install playwright")
pytestmark = MARKS


def test_a_prompt_becomes_a_picture_whose_settings_come_back(opened: Open) -> None:
    page = opened()
    draw(page, "a cat in the rain")
    page.locator("#pictures img").first.wait_for()
    page.locator("#prompt textarea").fill("something else")
    page.locator("#result-restore").click()
    playwright.expect(page.locator("#prompt textarea")).to_have_value("a cat in the rain", timeout=PATIENCE)
    playwright.expect(page.locator("#sampler-diffuse-steps input")).to_have_value("4", timeout=PATIENCE)


def test_cancel_stops_long_before_the_last_step(opened: Open, served: Served) -> None:
    page = opened()
    set_up(page, steps=1000)
    page.locator("#go").click()
    page.get_by_text(re.compile(r"Step \d+ of 1000")).wait_for()
    page.locator("#cancel").click()
    page.get_by_text("Stopped", exact=True).wait_for()
    job = list(served.demo.desk.jobs.jobs.values())[-1]
    assert job.wait(60) == "stopped"
    assert job.progress is not None
    assert job.progress.done < 1000
    playwright.expect(page.locator("#go")).to_be_enabled(timeout=PATIENCE)


def test_escape_cancels_and_control_enter_generates(opened: Open) -> None:
    page = opened()
    set_up(page, steps=1000)
    page.locator("#prompt textarea").press("Control+Enter")
    page.get_by_text(re.compile(r"Step \d+ of 1000")).wait_for()
    page.keyboard.press("Escape")
    page.get_by_text("Stopped", exact=True).wait_for()


def test_edits_are_stacked_ordered_copied_and_removed(opened: Open) -> None:
    page = opened()
    add(page, "freeu")
    add(page, "cads")
    first, second = titles(page)
    heads = page.locator(".wb-item-head")
    heads.nth(1).get_by_role("button", name="Up", exact=True).click()
    playwright.expect(heads.nth(0)).to_contain_text(second[3:], timeout=PATIENCE)
    heads.nth(0).get_by_role("button", name="Duplicate").click()
    playwright.expect(heads).to_have_count(3, timeout=PATIENCE)
    heads.nth(0).get_by_role("button", name="Remove").click()
    playwright.expect(heads).to_have_count(2, timeout=PATIENCE)
    assert first[3:] in titles(page)[1]


def test_an_edit_that_is_switched_off_is_left_out(opened: Open, served: Served) -> None:
    page = opened()
    add(page, "freeu")
    page.locator(".wb-on input").uncheck()
    draw(page, "a cat without an edit")
    drawn = newest(served.root)
    assert plan_inside(drawn).edits == ()
    assert page.locator(".wb-item input:disabled").count() == 0


def test_what_is_pasted_into_a_setting_is_used(opened: Open, served: Served) -> None:
    page = opened()
    add(page, "tome")
    page.locator("[id$=-parts] textarea, [id$=-parts] input").fill("cross")  # no key is pressed, as with a paste
    draw(page, "a pasted cat")
    drawn = newest(served.root)
    assert plan_inside(drawn).edits[0].parts == ("cross",)


def test_a_search_follows_what_is_pasted_and_deleted(opened: Open) -> None:
    page = opened()
    draw(page, "a cat that is sought")
    page.get_by_role("tab", name="Gallery").click()
    page.locator("#history button img").wait_for()
    search = page.locator("#history-search textarea, #history-search input")
    for _ in range(2):
        search.fill("nowhere")
        page.locator("#history-line").get_by_text("Nothing matches").wait_for()
        search.fill("sought")
        page.locator("#history button img").wait_for()
    page.get_by_role("tab", name="Methods").click()
    table, search = page.locator("#method-table"), page.locator("#method-search textarea, #method-search input")
    for text in ("freeu", "deep-cache", "freeu"):
        search.fill(text)
        found = re.compile(rf"Cost\s+\w+\s+{text}\s")  # the first row under the heads
        playwright.expect(table).to_have_text(found, use_inner_text=True, timeout=PATIENCE)


def test_a_stroke_on_the_canvas_is_what_is_drawn_anew(opened: Open, tmp_path: Path, served: Served) -> None:
    Image.new("RGB", (64, 64), "#3060a0").save(tmp_path / "start.png")
    page = opened()
    set_up(page, "a painted cat")
    page.locator("#start button").first.click()
    playwright.expect(page.locator("#canvas canvas").last).to_be_visible(timeout=PATIENCE)
    page.wait_for_timeout(3000)  # Gradio's canvas sets itself up; it fails on a file that comes before
    page.locator("#canvas input[type=file]").first.set_input_files(tmp_path / "start.png")
    undo = page.locator("#canvas").get_by_role("button", name="Undo")
    page.locator("#canvas").get_by_role("button", name="Brush", exact=True).wait_for()
    for _ in range(20):  # a canvas that still fades in takes no stroke
        stroke(page)
        page.wait_for_timeout(1500)
        if undo.is_enabled():
            break
    playwright.expect(undo).to_be_enabled(timeout=PATIENCE)
    page.locator("#go").click()
    page.locator("#result-facts").get_by_text("a picture with a mask").wait_for()
    drawn = newest(served.root, "mask.png")
    share = (np.asarray(Image.open(drawn)) > 0).mean()
    assert 0.02 < share < 0.98


def test_a_dropped_picture_restores_every_setting(opened: Open, served: Served) -> None:
    page = opened()
    page.locator("#negative textarea, #negative input").first.fill("rain")
    add(page, "freeu")
    draw(page, "a dropped cat")
    drawn = newest(served.root)
    other = opened()
    other.get_by_role("tab", name="Gallery").click()
    other.locator("#history-drop input[type=file]").set_input_files(drawn)
    expect = playwright.expect
    expect(other.locator("#prompt textarea")).to_have_value("a dropped cat", timeout=PATIENCE)
    expect(other.locator("#negative textarea, #negative input").first).to_have_value("rain")
    expect(other.locator("#sampler-diffuse-steps input")).to_have_value("4", timeout=PATIENCE)
    expect(other.locator("#model input")).to_have_value(MODEL)
    expect(other.locator(".wb-item-head")).to_have_count(1, timeout=PATIENCE)
    seed = str(plan_inside(drawn).ask.seeds[0])
    expect(other.locator("#seed input")).to_have_value(seed)
    expect(other.locator("#roll input")).not_to_be_checked()


def test_arrows_go_along_the_gallery_and_deletion_can_be_undone(opened: Open) -> None:
    page = opened()
    page.locator("#count input").first.fill("2")
    draw(page, "two cats")
    page.get_by_role("tab", name="Gallery").click()
    pictures, facts = page.locator("#history button img"), page.locator("#history-facts")
    pictures.first.click()
    facts.get_by_text("two cats").wait_for()
    first = facts.inner_text()
    page.locator("#brand h1").click()
    page.keyboard.press("ArrowRight")
    playwright.expect(facts).not_to_have_text(first, use_inner_text=True, timeout=PATIENCE)
    page.locator("#history-previous").wait_for()
    page.keyboard.press("ArrowLeft")
    playwright.expect(facts).to_have_text(first, use_inner_text=True, timeout=PATIENCE)
    page.locator("#history-delete").click()
    playwright.expect(pictures).to_have_count(1, timeout=PATIENCE)
    page.locator("#history-undo").click()
    playwright.expect(pictures).to_have_count(2, timeout=PATIENCE)
    with page.expect_download(timeout=PATIENCE) as download:
        page.locator("#history-zip").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert len(archive.namelist()) == 2


def test_a_report_is_found_again_in_the_gallery(opened: Open) -> None:
    page = opened()
    set_up(page, "an inspected cat")
    page.get_by_role("tab", name="Inspect").click()
    page.locator("#lens-name input").click()
    page.locator("#lens-name input").fill("denoise-film")
    page.locator("#lens-name [role=option]", has_text="(denoise-film)").first.click()
    page.locator("#lens-denoise-film-frames input").first.wait_for()
    page.locator("#inspect-go").click()
    page.get_by_text("kept in the gallery").wait_for()
    page.get_by_role("tab", name="Gallery").click()
    page.locator("#history-kind").get_by_text("Reports").click()
    page.locator("#history-reports").get_by_text("an inspected cat").locator("visible=true").first.click()
    page.locator(".wb-side .wb-film").wait_for()


def test_the_cells_of_a_grid_appear_and_are_kept(opened: Open) -> None:
    page = opened()
    set_up(page, "a cat in a grid")
    page.get_by_role("tab", name="Grid").click()
    page.locator("#grid-xs textarea, #grid-xs input").first.fill("1, 2")
    page.locator("#grid-go").click()
    playwright.expect(page.locator("#grid-cells button img")).to_have_count(2, timeout=PATIENCE)
    page.get_by_text("2 of 2 cells").wait_for()
    page.get_by_role("tab", name="Gallery").click()
    playwright.expect(page.locator("#history button img")).to_have_count(2, timeout=PATIENCE)


def test_compare_shows_both_pictures_on_a_slider(opened: Open) -> None:
    page = opened()
    set_up(page)
    add(page, "freeu")
    page.get_by_role("tab", name="Compare").click()
    page.locator("#compare-go").click()
    page.locator("#compare-slider img").first.wait_for()
    playwright.expect(page.locator("#compare-go")).to_be_enabled(timeout=PATIENCE)


def test_a_failed_request_is_one_readable_line_and_the_next_works(opened: Open) -> None:
    page = opened()
    set_up(page)
    page.locator("#size textarea, #size input").first.fill("13x13")
    page.locator("#go").click()
    alert = page.locator("#stage [role=alert]")
    alert.wait_for()
    assert "13x13" in alert.inner_text()
    page.locator("#size textarea, #size input").first.fill("")
    draw(page)


def test_two_browsers_are_apart_and_a_job_survives_a_reload(opened: Open) -> None:
    one, two = opened(), opened()
    set_up(one, "a secret cat", steps=400)
    one.locator("#go").click()
    one.get_by_text(re.compile(r"Step \d+ of 400")).wait_for()
    one.reload()
    one.locator("#result-facts").get_by_text("a secret cat").wait_for()
    two.get_by_role("tab", name="Gallery").click()
    two.get_by_text("No pictures here").wait_for()
    assert "a secret cat" not in two.content()
    one.get_by_role("tab", name="Gallery").click()
    one.locator("#history img").first.wait_for()


def test_a_link_carries_the_settings_and_hostile_texts_stay_texts(opened: Open, served: Served) -> None:
    from apps.recipe import packed
    from apps.stack import item

    hostile = "<img src=x onerror=document.title='owned'> ${document.title='owned'} {{x}}"
    recipe = {"prompt": hostile, "seed": 3, "count": 1, "model": MODEL, "sampler": "diffuse",
              "raws": {"diffuse": {"steps": 2}}, "stack": [item("freeu")]}  # fmt: skip
    page = opened(f"/?recipe={packed(recipe)}")
    playwright.expect(page.locator("#prompt textarea")).to_have_value(hostile, timeout=PATIENCE)
    page.locator(".wb-item-head").first.wait_for()
    page.locator("#go").click()
    page.locator("#result-facts").get_by_text(hostile).wait_for()
    assert page.title() == "Diffusion Workbench"


def test_the_page_fits_a_phone(opened: Open) -> None:
    page = opened(width=390)
    for name in ("Generate", "Compare", "Grid", "Inspect", "Gallery", "Methods"):
        tab = page.get_by_role("tab", name=name)
        if not tab.is_visible():
            page.locator(".overflow-menu button").first.click()
            tab = page.get_by_role("button", name=name, exact=True)
        tab.click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 391, name
