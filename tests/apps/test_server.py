"""The served app: pictures arrive as the core wrote them, jobs end within a step, browsers and strangers are apart."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from apps.desk import MOST_JOBS, Desk
from apps.guard import browser_id
from apps.pages.generate import Generate
from tests.apps.conftest import MODEL, Served
from workbench.core.errors import AskError, ResourceError
from workbench.runs.shelf import facts_inside, plan_inside


def _request(token: str) -> Any:
    return SimpleNamespace(cookies={"workbench_browser": token}, session_hash=token, query_params={})


@pytest.fixture(scope="module")
def page(served: Served) -> Generate:
    """The Generate page of the running app."""
    return next(fn.fn.__self__ for fn in served.demo.fns.values() if getattr(fn.fn, "__name__", "") == "generate")  # type: ignore[union-attr]


def _values(**change: Any) -> list[Any]:
    steps = {"diffuse": {"steps": change.pop("steps", 3)}}
    start = {"prompt": "a cat", "negative": "", "seed": 5, "count": 1, "size": "", "model": MODEL, "sampler": "diffuse",
             "raws": steps, "stack": [], "roll": False, "canvas": None, "pad": 0, "painted": None}  # fmt: skip
    return list({**start, **change}.values())


def test_a_picture_is_delivered_as_the_file_that_the_core_wrote(served: Served, page: Generate) -> None:
    seen = list(page.generate(_request("one"), *_values(count=2)))
    paths = seen[-1][2]
    assert len(paths) == 2
    assert all(
        Path(path).is_relative_to(served.root / browser_id({"workbench_browser": "one"}, None)) for path in paths
    )
    assert plan_inside(paths[1]).ask.seeds == (6,)
    assert facts_inside(paths[0])["model"]["name"] == MODEL
    assert "2 pictures in" in seen[-1][0]


def test_every_step_is_told(page: Generate) -> None:
    texts = [str(row[0]) for row in page.generate(_request("one"), *_values(steps=40))]
    assert any("Step" in text and "of 40" in text for text in texts)
    assert any(" left" in text for text in texts)


def test_cancel_ends_a_job_and_the_next_one_works(served: Served, page: Generate) -> None:
    job = page.generate(_request("two"), *_values(steps=1000))
    for row in job:
        if "Step" in str(row[0]):
            break
    asked = time.monotonic()
    page.stop(_request("two"))
    last = [str(row[0]) for row in job][-1]
    assert "Stopped" in last
    assert time.monotonic() - asked < 10  # a step of the tiny model takes milliseconds; the rest is a busy machine
    assert "1 picture in" in list(page.generate(_request("two"), *_values()))[-1][0]


def test_a_request_that_cannot_be_met_is_one_line(page: Generate) -> None:
    for change in ({"prompt": ""}, {"size": "13x13"}, {"model": "no-such-model"}, {"prompt": "x" * 10_000}):
        last = str(list(page.generate(_request("one"), *_values(**change)))[-1][0])
        assert "did not work" in last, change
        assert "Traceback" not in last


def test_out_of_memory_is_a_line_and_the_next_job_works(page: Generate, monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr("workbench.runs.execute._draw", greedy)
        text = str(list(page.generate(_request("one"), *_values()))[-1][0])
    assert "ran out of memory" in text
    assert "Traceback" not in text
    assert "1 picture in" in list(page.generate(_request("one"), *_values()))[-1][0]


def test_a_hostile_picture_is_text_or_a_line(page: Generate, tmp_path: Path) -> None:
    bad = "<img src=x onerror=alert(1)>"
    asks = ({"prompts": [bad], "seeds": [1]}, {"prompts": [bad], "seeds": ["x"]}, bad, None, [bad] * 9)
    for number, ask in enumerate(asks):
        path = tmp_path / f"{number}.png"
        meta = {"schema": 1, "plan": {"model": bad, "ask": ask, "edits": [{"method": bad}] if number else []}}
        info = PngInfo()
        info.add_text("workbench", json.dumps(meta))
        Image.new("RGB", (4, 4)).save(path, pnginfo=info)
        shown = page.detail.show(str(path))
        assert "<img" not in str(shown[2])
        restored = page.restore(str(path), _request("one"))
        assert "<img" not in str(restored[-2])


def test_hostile_prompts_are_text_everywhere(page: Generate) -> None:
    hostile = "<img src=http://evil.example onerror=alert(1)> ${alert(2)} {{constructor}} \u202e"
    paths = list(page.generate(_request("one"), *_values(prompt=hostile)))[-1][2]
    shown = page.detail.show(paths[0])
    assert "<img" not in str(shown[2])
    assert plan_inside(paths[0]).ask.prompts == (hostile,)


def test_a_job_goes_on_when_the_page_is_closed_and_is_found_again(served: Served, page: Generate) -> None:
    first = page.generate(_request("three"), *_values(steps=60))
    next(first)
    first.close()
    desk: Desk = served.demo.desk
    three, four = (desk.owner(_request(name)) for name in ("three", "four"))
    ticket = desk.current(three, "generate")
    assert ticket is not None
    for _ in range(2):  # while it is at work, and when it is done
        assert list(page._show(ticket))[-1][2], "the picture arrived in the page that came later"
        assert desk.current(three, "generate") is ticket
    assert desk.current(four, "generate") is None
    assert desk.current(three, "grid") is None


def test_the_last_result_of_each_page_is_kept_and_what_was_stopped_is_not(served: Served) -> None:
    desk: Desk = served.demo.desk
    kept = [desk.submit("keeper", page, lambda tap: None) for page in ("a", "b", "a")]
    assert [ticket.job.wait(20) for ticket in kept] == ["done"] * 3
    stopped = desk.submit("keeper", "b", lambda tap: None)
    stopped.job.state = "stopped"
    assert desk.current("keeper", "a") is kept[2]
    assert desk.current("keeper", "b") is kept[1]


def test_settings_come_back_from_a_picture(page: Generate) -> None:
    path = list(page.generate(_request("one"), *_values(negative="rain", seed=11)))[-1][2][0]
    restored = page.restore(path, _request("one"))
    assert restored[:4] == ["a cat", "rain", 11, 1]


def test_a_foreign_picture_is_refused_in_one_line(page: Generate, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "plain.png")
    assert any(
        "no settings of ours" in str(value) for value in page.restore(str(tmp_path / "plain.png"), _request("one"))
    )


def test_two_browsers_have_folders_of_their_own(served: Served) -> None:
    desk: Desk = served.demo.desk
    one, two = (browser_id({"workbench_browser": name}, None) for name in ("one", "two"))
    mine = {run.folder for run in desk.history(one)}
    assert mine
    assert not mine & {run.folder for run in desk.history(two)}
    assert not any(desk.owns(two, folder) for folder in mine)
    assert not desk.owns(one, desk.folder(one) / ".." / two / "x.png")


def test_a_browser_cannot_fill_the_queue(served: Served) -> None:
    desk: Desk = served.demo.desk
    tickets = [desk.submit("greedy", "test", lambda tap: time.sleep(0.05)) for _ in range(MOST_JOBS - 1)]
    with pytest.raises(ResourceError, match="waiting"):
        [desk.submit("greedy", "test", lambda tap: time.sleep(0.5)) for _ in range(MOST_JOBS + 1)]
    desk.cancel("greedy", "test")
    assert all(ticket.job.wait(20) for ticket in tickets)


def test_strangers_cannot_open_files_of_this_computer(tmp_path: Path) -> None:
    desk = Desk(tmp_path, public=True)
    for model in ("/etc", "~/x", "../up", str(tmp_path)):
        with pytest.raises(AskError):
            desk.allow(model)
    desk.allow("owner/name")
    desk.jobs.close()


def test_foreign_hosts_and_origins_are_refused(served: Served) -> None:
    upload = {"files": ("a.png", b"x", "image/png")}
    with httpx.Client(base_url=served.url) as client:
        assert client.get("/", headers={"host": "evil.example"}).status_code == 400
        assert (
            client.post("/gradio_api/upload", files=upload, headers={"origin": "http://evil.example"}).status_code
            == 403
        )
        assert client.post("/gradio_api/upload", files=upload, headers={"origin": "null"}).status_code == 403
        assert client.post("/gradio_api/upload", files=upload).status_code == 200


def test_uploads_have_a_limit(served: Served) -> None:
    big = {"files": ("a.png", b"x" * (21 << 20), "image/png")}
    assert httpx.post(served.url + "/gradio_api/upload", files=big, timeout=60).status_code == 413


def test_files_of_this_computer_are_not_served(served: Served) -> None:
    for path in (
        "/etc/passwd",
        str(Path(__file__).parents[2] / "pyproject.toml"),
        f"{served.root}/../secret",
        "pyproject.toml",
    ):
        assert httpx.get(f"{served.url}/gradio_api/file={path}").status_code in (403, 404)


def test_the_page_names_no_outside_host_to_load_from(served: Served) -> None:
    text = httpx.get(served.url, timeout=60).text
    for tag in ("<script", "<link"):
        for part in text.split(tag)[1:]:
            head = part.partition(">")[0]
            assert "//" not in head.replace(served.url, "") or "http" not in head, head[:200]
    assert json.loads(httpx.get(served.url + "/config", timeout=60).text)["analytics_enabled"] is False
