"""The guard: foreign hosts, foreign origins and huge bodies are answered before the app sees them."""

import asyncio
from typing import Any

import pytest

from apps.guard import COOKIE, MOST_BYTES, Guard, browser_id


async def _app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"inside"})


def _ask(headers: dict[str, str], verb: str = "GET", path: str = "/", **how: Any) -> tuple[int, dict[str, str]]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    raw = [(key.encode(), value.encode()) for key, value in headers.items()]
    scope = {"type": "http", "method": verb, "path": path, "headers": raw}
    asyncio.run(Guard(_app, **how)(scope, receive, send))
    return sent[0]["status"], {key.decode(): value.decode() for key, value in sent[0]["headers"]}


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "[::1]:7860", "192.168.1.5:7860"])
def test_addresses_and_this_computer_are_known(host: str) -> None:
    assert _ask({"host": host})[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:7860", ""])
def test_names_that_could_be_rebound_are_refused(host: str) -> None:
    assert _ask({"host": host})[0] == 400


def test_a_name_can_be_allowed() -> None:
    assert _ask({"host": "box.local:7860"}, hosts=["box.local"])[0] == 200
    assert _ask({"host": "x.hf.space"}, any_host=True)[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "http://localhost:7860"])
def test_posts_from_other_origins_are_refused(origin: str) -> None:
    assert _ask({"host": "127.0.0.1:7860", "origin": origin}, "POST")[0] == 403


def test_posts_from_the_page_itself_and_from_programs_pass() -> None:
    assert _ask({"host": "127.0.0.1:7860", "origin": "http://127.0.0.1:7860"}, "POST")[0] == 200
    assert _ask({"host": "127.0.0.1:7860"}, "POST")[0] == 200


def test_cross_site_posts_without_an_origin_are_refused() -> None:
    assert _ask({"host": "127.0.0.1:7860", "sec-fetch-site": "cross-site"}, "POST")[0] == 403


@pytest.mark.parametrize("length", [str(MOST_BYTES + 1), "-1", "many"])
def test_huge_bodies_are_refused(length: str) -> None:
    assert _ask({"host": "localhost", "content-length": length}, "POST")[0] == 413


def test_the_page_gives_each_browser_a_token_that_scripts_cannot_read() -> None:
    _, first = _ask({"host": "localhost"})
    _, second = _ask({"host": "localhost"})
    assert "HttpOnly" in first["set-cookie"]
    assert "SameSite=Lax" in first["set-cookie"]
    assert first["set-cookie"] != second["set-cookie"]
    assert "set-cookie" not in _ask({"host": "localhost", "cookie": f"{COOKIE}=known"})[1]


def test_answers_carry_headers_that_browsers_heed() -> None:
    _, headers = _ask({"host": "localhost"})
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"


def test_a_browser_is_named_by_a_hash_of_its_token() -> None:
    assert browser_id({COOKIE: "secret"}, "page") == browser_id({COOKIE: "secret"}, "other page")
    assert browser_id({COOKIE: "secret"}, None) != browser_id({COOKIE: "other"}, None)
    assert "secret" not in browser_id({COOKIE: "secret"}, None)


def test_a_space_knows_its_page_inside_the_frame_of_another_site() -> None:
    status, headers = _ask({"host": "10.0.0.7"}, hosts=["a-b.hf.space"], any_host=True)
    assert status == 200
    assert "SameSite=None; Secure; Partitioned" in headers["set-cookie"]
    from_page = {"host": "10.0.0.7", "origin": "https://a-b.hf.space"}
    assert _ask(from_page, "POST", hosts=["a-b.hf.space"], any_host=True)[0] == 200
    assert (
        _ask({**from_page, "origin": "https://evil.example"}, "POST", hosts=["a-b.hf.space"], any_host=True)[0] == 403
    )
    assert "SameSite=Lax" in _ask({"host": "127.0.0.1:7860"})[1]["set-cookie"]
