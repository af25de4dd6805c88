"""What stands between the app and the web: host and origin checks, size limits, and a name for each browser.

A page on another site may make a visitor's browser talk to 127.0.0.1: by a name that resolves there (so the Host
header is checked), or by posting a form (so the Origin header is). Each browser gets a random token in a cookie that
no script can read; its hash names the folder of its pictures, so that nobody else can guess their addresses.
"""

import hashlib
import ipaddress
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any

COOKIE = "workbench_browser"
#: Bytes of one request; a picture to start from is far smaller.
MOST_BYTES = 48 << 20
_YEAR = 365 * 24 * 3600
_SAFE = {"GET", "HEAD", "OPTIONS"}
_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin")]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def browser_id(cookies: Any, fallback: str | None) -> str:
    """Who is asking: a hash of the browser's token, or of the page's own name where cookies are refused."""
    token = (cookies or {}).get(COOKIE) or f"page {fallback or 'nobody'}"
    return hashlib.sha256(token.encode()).hexdigest()[:32]


class Guard:
    """ASGI middleware: refuses foreign hosts (400), foreign origins (403) and huge bodies (413)."""

    def __init__(self, app: Callable[..., Awaitable[None]], hosts: Iterable[str] = (), any_host: bool = False) -> None:
        """`any_host` is for a Space: its proxy answers for the name, and its page stands inside another site's."""
        self.app = app
        self.site = "None; Secure; Partitioned" if any_host else "Lax"
        self.hosts = {"localhost", socket.gethostname().lower(), socket.getfqdn().lower(), *hosts}
        self.any_host = any_host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or answer it here."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        trouble = self.refusal(str(scope.get("method", "GET")), headers)
        if trouble is not None:
            await _answer(send, *trouble)
            return
        token = _token(headers.get("cookie", ""))
        fresh = None if token else secrets.token_urlsafe(24)
        if fresh:
            cookie = f"{COOKIE}={fresh}".encode()
            old = headers.get("cookie")
            kept = [pair for pair in scope["headers"] if pair[0].lower() != b"cookie"]
            scope["headers"] = [*kept, (b"cookie", cookie if not old else old.encode("latin-1") + b"; " + cookie)]

        async def out(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                extra = list(_HEADERS)
                if fresh and scope.get("method") == "GET" and scope["path"] == "/":
                    words = f"{COOKIE}={fresh}; Path=/; HttpOnly; SameSite={self.site}; Max-Age={_YEAR}"
                    extra.append((b"set-cookie", words.encode()))
                message["headers"] = [*message.get("headers", []), *extra]
            await send(message)

        await self.app(scope, receive, out)

    def refusal(self, verb: str, headers: dict[str, str]) -> tuple[int, str] | None:
        """The status and the line with which a request is refused, or None."""
        host = headers.get("host", "")
        if not self.any_host and not self._known(host):
            return 400, "This app does not answer to that host name. Open it by its address."
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > MOST_BYTES:
            return 413, f"A request may hold {MOST_BYTES >> 20} MiB."
        if verb in _SAFE:
            return None
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() not in self._own(host):
            return 403, "Requests from other sites are refused."
        if headers.get("sec-fetch-site") == "cross-site":
            return 403, "Requests from other sites are refused."
        return None

    def _own(self, host: str) -> set[str]:
        """What the page's own origin is called: by the request, and behind a proxy by the names given at the start."""
        return {host.lower()} | (self.hosts if self.any_host else set())

    def _known(self, host: str) -> bool:
        name = host.lower()
        name = name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
        if name in self.hosts:
            return True
        try:
            ipaddress.ip_address(name)  # an address, not a name: nothing that could be rebound
        except ValueError:
            return False
        return True


def _token(header: str) -> str:
    try:
        found = SimpleCookie(header).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


async def _answer(send: Send, status: int, line: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": line.encode()})
