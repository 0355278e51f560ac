"""Who may use the page: the browser that brought the token, and only from the page itself."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from medseglatdiff_monai.integrations.view.guard import Gate, Guard

HOST = "http://127.0.0.1:8080"
STATIC = "/_nicegui/3.18.0/static/a.js"
SOCKET = "/_nicegui_ws/socket.io/"


async def answer_all(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"the page"})


class Browser:
    """Sends requests to a guarded application, and keeps its cookie."""

    def __init__(self, gate: Gate) -> None:
        self.guard = Guard(answer_all, gate)
        self.cookie = ""

    def ask(self, path: str, method: str = "GET", **headers: str) -> int:
        """Status of the answer; a WebSocket's is 101 where it is accepted."""
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            raise AssertionError("nothing is read before it is judged")

        path, _, query = path.partition("?")
        fields = {"host": "127.0.0.1:8080", "cookie": self.cookie, **headers}
        scope = {
            "type": "websocket" if method == "WEBSOCKET" else "http", "method": method, "path": path,
            "query_string": query.encode(),
            "headers": [(key.encode(), value.encode()) for key, value in fields.items()],
        }  # fmt: skip
        asyncio.run(self.guard(scope, receive, send))
        if method == "WEBSOCKET":
            return 101 if sent[0]["type"] == "websocket.accept" else 403
        for name, value in sent[0]["headers"]:
            if name == b"set-cookie":
                assert b"HttpOnly; SameSite=Strict" in value
                self.cookie = value.decode().partition(";")[0]
        return sent[0]["status"]


def test_token_opens_the_page_once() -> None:
    announced: list[str] = []
    gate = Gate(8080, announced.append)
    first, second = Browser(gate), Browser(gate)
    path = gate.path
    for browser in (first, second):
        assert [browser.ask(other) for other in ("/", "/?token=", "/?token=wrong", STATIC, SOCKET)] == [403] * 5
        assert browser.ask(SOCKET, "WEBSOCKET", origin=HOST) == 403
    assert first.ask(path) == 303
    assert [first.ask(other) for other in ("/", path, STATIC, "/favicon.ico", SOCKET)] == [200] * 5
    assert first.ask(SOCKET, "WEBSOCKET", origin=HOST) == 101
    assert second.ask(path) == 403
    assert announced == [gate.path]
    assert second.ask(announced[0]) == 303
    assert (first.ask("/"), second.ask("/")) == (200, 200)


@pytest.fixture
def known() -> Browser:
    gate = Gate(8080, lambda path: None)
    browser = Browser(gate)
    assert browser.ask(gate.path) == 303
    return browser


def test_requests_of_other_pages_are_refused_whatever_cookie_they_bring(known: Browser) -> None:
    for origin in ("https://example.org", "http://127.0.0.1:8081", "null", "http://127.0.0.1:8080.example.org"):
        assert known.ask(SOCKET, "WEBSOCKET", origin=origin) == 403
        assert known.ask(SOCKET, "POST", origin=origin) == 403
        assert known.ask("/", origin=origin) == 403
    assert known.ask(SOCKET, "WEBSOCKET") == 403
    assert known.ask(SOCKET, "WEBSOCKET", origin="http://localhost:8080") == 101
    assert known.ask(SOCKET, "POST", origin=HOST) == 200


def test_other_addresses_and_methods(known: Browser) -> None:
    assert [known.ask(path) for path in ("/x", "/docs", "/openapi.json", "/_nicegui/x", "//", "/../etc")] == [404] * 6
    assert [known.ask("/", method) for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS")] == [405] * 5
    assert known.ask(STATIC, "POST") == 405


@pytest.mark.parametrize("cookie", ["medseglatdiff_8080=", "medseglatdiff_8080=é", "a;b=\x00", "medseglatdiff_8081=x"])
def test_other_cookies_are_no_excuse(known: Browser, cookie: str) -> None:
    known.cookie = cookie
    assert known.ask("/") == 403
