"""What the browser tests share: one Chromium a module, a page whose troubles are counted, and what a person does."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MODEL = "tiny-random"
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync"]  # fmt: skip
PATIENCE = 120_000  # ms; a busy two-core machine is slow, a broken page never gets there

MARKS = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not Path(CHROMIUM).exists(), reason="no Chromium: apt-get install chromium"),
]
Open = Callable[..., Any]
#: What Gradio's own script says when a reload cuts the streams of the page before, and of an icon nobody asked for.
CUT = ("AbortError", "Connection errored out", "favicon")
#: What it says besides on a page that was loaded again, whose server has forgotten the session of the page before.
RELOADED = (*CUT, "404: Not Found", "INCOMPLETE_CHUNKED", "network error")


def set_up(page: Any, prompt: str = "a cat", steps: int = 4) -> None:
    page.locator("#model input").click()
    page.locator("#model input").fill(MODEL)
    page.locator("#model input").press("Enter")
    page.locator("#sampler-diffuse-steps input").fill(str(steps))
    page.locator("#prompt textarea").fill(prompt)


def draw(page: Any, prompt: str = "a cat", steps: int = 4) -> None:
    set_up(page, prompt, steps)
    page.locator("#go").click()
    page.locator("#result-facts").get_by_text(prompt, exact=True).wait_for()


def add(page: Any, name: str) -> None:
    count = page.locator(".wb-item-head").count()
    page.locator("#stack-add input").click()
    page.locator("#stack-add input").fill(name)
    page.locator("#stack-add [role=option]", has_text=f"({name})").first.click()
    from playwright.sync_api import expect

    expect(page.locator(".wb-item-head")).to_have_count(count + 1, timeout=PATIENCE)


def newest(root: Path, name: str = "0000.png") -> Path:
    """The last picture that was drawn, or the last file of that name in a run."""
    return max(root.glob(f"*/*/{name}"), key=lambda path: path.stat().st_mtime)


def titles(page: Any) -> list[str]:
    return [text.strip().split("\n")[0] for text in page.locator(".wb-item-head").all_inner_texts()]


def stroke(page: Any) -> None:
    """Paint across the middle of the canvas, which has to be in sight for a mouse to reach it."""
    canvas = page.locator("#canvas canvas").last
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 40, y)
    page.mouse.down()
    page.mouse.move(x + 40, y + 10, steps=8)
    page.mouse.up()
