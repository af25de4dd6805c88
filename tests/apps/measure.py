"""How quickly the pages answer, and what the app adds to a picture: `python -m tests.apps.measure [FILE.json]`.

Run by hand on a quiet machine. Reaction: milliseconds in the browser from an act to the change a person sees, no model
at work, 95th percentile of each act. Overhead: a picture from the press of Generate to its line in the page, against
the same plan run in the same process without the app, in turns.
"""

import json
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.apps.conftest import free_port

REPEATS, PICTURES, STEPS = 20, 9, 20
PROMPT = "a flat emoji of a cat"
CHROMIUM = "/usr/bin/chromium"
ARGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
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


def main(target: Path | None = None) -> dict[str, Any]:
    """Measure, print and perhaps keep."""
    from playwright.sync_api import sync_playwright

    from apps.app import prepare

    with tempfile.TemporaryDirectory() as root, sync_playwright() as driver:
        demo, options = prepare("127.0.0.1", free_port(), None, Path(root) / "runs")
        demo.launch(prevent_thread_lock=True, **options)
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGS)
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(180_000)
        page.goto(demo.local_url)
        page.locator("#sampler-diffuse-steps input").first.wait_for()
        try:
            found: dict[str, Any] = {
                "overhead": overhead(page, demo.desk, Path(root) / "runs", Path(root)),
                "reaction_ms": None,
            }
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


def overhead(page: Any, desk: Any, runs: Path, spare: Path) -> dict[str, float]:
    """Seconds of a picture in the page and of its plan alone, medians, and how much more the page takes."""
    from workbench.runs.execute import run
    from workbench.runs.history import read_run

    page.locator("#prompt textarea").fill(PROMPT)
    page.locator("#sampler-diffuse-steps input").first.fill(str(STEPS))
    page.locator("#roll input").uncheck()
    page.evaluate(_STILL)
    shown, alone, name = [], [], ""
    for turn in range(PICTURES + 1):
        done = f"(found => found && found[1] !== '{name}')(document.querySelector('#stage').innerText.match({_RUN}))"
        spent = page.evaluate(_REACT.replace("20000", "300000"), ["document.querySelector('#go').click()", done]) / 1000
        name = page.evaluate(f"document.querySelector('#stage').innerText.match({_RUN})[1]")
        (folder,) = runs.glob(f"*/{name}")
        plan = read_run(folder).plan
        began = time.perf_counter()
        run(plan, spare / "alone" / str(turn), bundle=desk.run_plan(plan))
        if turn:
            shown.append(spent)
            alone.append(time.perf_counter() - began)
    ratio = statistics.median(a / b for a, b in zip(shown, alone, strict=True))
    return {"page_s": statistics.median(shown), "alone_s": statistics.median(alone), "overhead": ratio - 1}


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


#: The line under a finished picture names the folder of its run.
_RUN = r"/\brun (\S+)/"
_COUNT = "document.querySelectorAll('.wb-item-head').length"
_SEARCH, _METHODS = "#history-search textarea, #history-search input", "#method-search textarea, #method-search input"
_TAB = "[...document.querySelectorAll('[role=tab]')].find(t => t.innerText.trim() === '{}').click()"
_ACTS = (
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
        f"!{_at('#method-table')}.innerText.includes('diffuse')"),
    Act("duplicate an edit", "Generate", f"{_COUNT} > 1 && {_tool('Remove')}", _tool("Duplicate"), f"{_COUNT} === 2"),
    Act("remove an edit", "Generate", f"{_COUNT} < 2 && {_tool('Duplicate')}", _tool("Remove"), f"{_COUNT} === 1"),
)  # fmt: skip


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)
