"""How quickly the pages answer, and what the app adds to a picture: `python -m tests.apps.measure [FILE.json]`.

Run by hand on a quiet machine. Reaction: milliseconds in the browser from an act to the change a person sees, no model
at work, 95th percentile of each act. Overhead: a picture that a client asks the app for over HTTP, every step of it
told, against the same plan run by itself in the same thread, in turns; beside them the same picture in the page, whose
browser draws on the same processors.
"""

import functools
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.apps.browser import ARGS, CHROMIUM
from tests.apps.conftest import free_port
from workbench.runs.history import read_run

REPEATS, TURNS, STEPS = 20, 9, 20
COUNTS = (1, 8)
PROMPT = "a flat emoji of a cat"
#: Half a second in which nothing on the page changes: what came before has settled.
_STILL = """() => new Promise(done => {
  let timer = setTimeout(finish, 500);
  const watch = new MutationObserver(() => { clearTimeout(timer); timer = setTimeout(finish, 500); });
  function finish() { watch.disconnect(); done(); }
  watch.observe(document.body, {subtree: true, childList: true, attributes: true, characterData: true});
})"""
_REACT = """async ([act, done]) => {
  const ready = new Function('return ' + done), began = performance.now();
  if (ready()) throw new Error('already so: ' + done);
  new Function(act)();
  while (!ready()) {
    if (performance.now() - began > 20000) throw new Error('never so: ' + done);
    await new Promise(requestAnimationFrame);
  }
  return performance.now() - began;
}"""


#: Press Generate; the seconds until the page shows the line of a finished picture, and the run that the line names.
_DRAWN = """() => new Promise(done => {
  const began = performance.now(), stage = document.querySelector('#stage');
  const before = (stage.textContent.match(/run (\\S+)/) || [])[1];
  const watch = new MutationObserver(() => {
    const now = (stage.textContent.match(/run (\\S+)/) || [])[1];
    if (now && now !== before) { watch.disconnect(); done([(performance.now() - began) / 1000, now]); }
  });
  watch.observe(stage, {subtree: true, childList: true, characterData: true});
  document.querySelector('#go').click();
})"""


def main(target: Path | None = None) -> dict[str, Any]:
    """Measure, print and perhaps keep."""
    from playwright.sync_api import sync_playwright

    from apps.app import prepare

    apart = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
    with tempfile.TemporaryDirectory() as root, sync_playwright() as driver, apart as other:
        demo, options = prepare("127.0.0.1", free_port(), None, Path(root) / "runs")
        demo.launch(prevent_thread_lock=True, **options)
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(180_000)
        page.goto(demo.local_url)
        page.locator("#sampler-diffuse-steps input").first.wait_for()
        try:
            runs = Path(root) / "runs"

            def ask(count: int) -> float:
                return other.submit(_asked, demo.local_url, count).result()

            found: dict[str, Any] = {f"of_{count}": overhead(page, ask, demo.desk, runs, count) for count in COUNTS}
            _add_an_edit(page)
            found["reaction_ms"] = reaction(page)
        finally:
            browser.close()
            demo.close(verbose=False)
            demo.desk.jobs.close()
    text = json.dumps(found, indent=2)
    print(text)
    if target is not None:
        target.write_text(text + "\n", "utf-8")
    return found


def _add_an_edit(page: Any) -> None:
    page.locator("#stack-add input").click()
    page.locator("#stack-add [role=option]").first.click()
    page.locator(".wb-item-head").wait_for()


@functools.cache
def _client(url: str) -> Any:
    from gradio_client import Client

    return Client(url, verbose=False, download_files=False)


def _asked(url: str, count: int) -> float:
    """Seconds of a request without a page, for a process of its own."""
    client, began = _client(url), time.perf_counter()
    line, _, _ = client.predict(PROMPT, "", 0, count, "", "default", "diffuse", False, None, 0, api_name="/generate")
    spent = time.perf_counter() - began
    assert f"{count} picture" in line, line
    return spent


def overhead(page: Any, ask: Callable[[int], float], desk: Any, runs: Path, count: int) -> dict[str, float]:
    """Seconds of so many pictures by their plan alone, asked for over HTTP, and in the page: medians, and what it adds.

    All three draw in the one thread that jobs run in, where the model is warm.
    """
    page.locator("#prompt textarea").fill(PROMPT)
    page.locator("#sampler-diffuse-steps input").first.fill(str(STEPS))
    page.locator("#count input").first.fill(str(count))
    page.locator("#roll input").uncheck()
    page.evaluate(_STILL)
    spent: dict[str, list[float]] = {"alone_s": [], "asked_s": [], "page_s": []}
    for turn in range(TURNS + 1):
        seconds, name = page.evaluate(_DRAWN)
        (folder,) = runs.glob(f"*/{name}")
        plan = read_run(folder).plan
        asked = ask(count)
        began = time.perf_counter()
        assert desk.jobs.submit(plan, out=runs / "alone" / f"{count}-{turn}").wait(300) == "done"
        if turn:
            for times, value in zip(spent.values(), (time.perf_counter() - began, asked, seconds), strict=True):
                times.append(value)
    found = {name: round(statistics.median(times), 3) for name, times in spent.items()}
    pairs = zip(spent["asked_s"], spent["alone_s"], strict=True)
    return {**found, "overhead": round(statistics.median(asked / alone for asked, alone in pairs) - 1, 3)}


def reaction(page: Any) -> dict[str, dict[str, float]]:
    """Median and 95th percentile of each act, in milliseconds."""
    return {act.name: act.measured(page) for act in _ACTS}


@dataclass(frozen=True)
class Act:
    """Something a person does: the tab it happens on, what makes it possible, what is done, what is then seen.

    All but the tab are scripts of the page; `seen` is false before.
    """

    name: str
    tab: str
    before: str
    do: str
    seen: str

    def measured(self, page: Any) -> dict[str, float]:
        times = []
        for _ in range(REPEATS):
            page.get_by_role("tab", name=self.tab, exact=True).click()
            if self.before:
                page.evaluate(self.before)
            page.wait_for_function(f"() => !({self.seen})")
            page.evaluate(_STILL)
            times.append(page.evaluate(_REACT, [self.do, self.seen]))
        p95 = statistics.quantiles(times, n=20, method="inclusive")[-1]
        return {"median": round(statistics.median(times), 1), "p95": round(p95, 1)}


def _at(selector: str) -> str:
    return f"document.querySelector('{selector}')"


def _visible(selector: str) -> str:
    return f"!!({_at(selector)} && {_at(selector)}.offsetParent)"


def _type(selector: str, text: str) -> str:
    return (
        f"(() => {{ const e = {_at(selector)}; e.value = '{text}'; "
        "e.dispatchEvent(new Event('input', {bubbles: true})); })()"
    )


def _tool(name: str, which: int = 0) -> str:
    return f"[...document.querySelectorAll('.wb-tool')].filter(b => b.innerText.trim() === '{name}')[{which}].click()"


_COUNT = "document.querySelectorAll('.wb-item-head').length"
_SEARCH, _METHODS = "#history-search textarea, #history-search input", "#method-search textarea, #method-search input"
_TAB = "[...document.querySelectorAll('[role=tab]')].find(t => t.innerText.trim() === '{}').click()"
_ACTS = (
    Act("duplicate an edit", "Generate", f"{_COUNT} > 1 && {_tool('Remove')}", _tool("Duplicate"), f"{_COUNT} === 2"),
    Act("remove an edit", "Generate", f"{_COUNT} < 2 && {_tool('Duplicate')}", _tool("Remove"), f"{_COUNT} === 1"),
    Act("open the gallery", "Generate", "", _TAB.format("Gallery"), _visible("#history button img")),
    Act("search the gallery", "Gallery", _type(_SEARCH, ""), _type(_SEARCH, "nowhere"),
        f"{_at('#history-line')}.innerText.includes('Nothing matches')"),
    Act("show everything again", "Gallery", _type(_SEARCH, "nowhere"), _type(_SEARCH, ""),
        f"!{_at('#history-line')}.innerText.includes('Nothing matches')"),
    Act("pick a picture", "Gallery", "document.querySelectorAll('#history button')[1].click()",
        "document.querySelectorAll('#history button')[0].click()", f"!({_visible('#history-previous')})"),
    Act("go to the next picture", "Gallery", "document.querySelectorAll('#history button')[0].click()",
        f"{_at('#history-next')}.click()", _visible("#history-previous")),
    Act("restore its settings", "Gallery", _type("#prompt textarea", "something else"),
        f"{_at('#history-restore')}.click()", f"{_at('#prompt textarea')}.value === '{PROMPT}'"),
    Act("search the methods", "Methods", _type(_METHODS, ""), _type(_METHODS, "nowhere"),
        f"!{_at('#method-table')}.innerText.includes('compose')"),
)  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
