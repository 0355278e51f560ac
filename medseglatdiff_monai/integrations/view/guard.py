"""Who may use the page: whoever has the address that the command printed, and no page of another site.

The page reads files by their path, and other users and programs of this computer reach 127.0.0.1 as well. The address
therefore holds a token, which works once: the browser that brings it gets a cookie in exchange. A page elsewhere could
still let the user's browser send that cookie, so that ``Origin`` must be the page's own. NiceGUI would answer any
address with the page itself.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

# On this computer alone, and for who has the address alone: the page reads files by their path.
HOST = "127.0.0.1"
SOCKET = "/_nicegui_ws/"
# What NiceGUI serves beside the page and its socket.
PARTS = re.compile(r"/_nicegui/[^/]+/(static|libraries|components|resources|dynamic_resources|esm)/.+")


class Gate:
    """Decides which requests are answered.

    Args:
        port: of the page on 127.0.0.1, under which name or ``localhost`` it is called.
        announce: told the next address, for another browser, when one is used.
    """

    def __init__(self, port: int, announce: Callable[[str], object]) -> None:
        self.origins = {f"http://{host}:{port}" for host in (HOST, "localhost")}
        self.cookie = f"medseglatdiff_{port}"
        self.secret = secrets.token_urlsafe()
        self.announce = announce
        self.token = secrets.token_urlsafe()

    @property
    def path(self) -> str:
        """What follows the page's host and port to open it once; another one after each use."""
        return f"/?token={self.token}"

    def judge(self, scope: Message) -> tuple[int, str, list[tuple[bytes, bytes]]]:
        """Status, message and further headers of the answer; 200: passed on."""
        path, socket = scope["path"], scope["type"] == "websocket"
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        origin = headers.get("origin")
        # Browsers name the origin of every WebSocket, and of all that pages of other sites send.
        if (socket and origin is None) or (origin is not None and origin not in self.origins):
            return 403, f"The request comes from {origin}; expected the page itself.", []
        if path not in ("/", "/favicon.ico") and not path.startswith(SOCKET) and not PARTS.fullmatch(path):
            return 404, "There is nothing here but the page at /.", []
        # Where no WebSocket can be opened, its messages are posted.
        allowed = ("GET", "HEAD", "POST") if path.startswith(SOCKET) else ("GET", "HEAD")
        if not socket and scope["method"] not in allowed:
            return 405, f"Expected {', '.join(allowed)}.", [(b"allow", ", ".join(allowed).encode())]
        if self._is_known(headers.get("cookie", "")):
            return 200, "", []
        given = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("token", [""])[0]
        if not socket and path == "/" and secrets.compare_digest(given.encode(), self.token.encode()):
            self.token = secrets.token_urlsafe()
            self.announce(self.path)
            value = f"{self.cookie}={self.secret}; Path=/; HttpOnly; SameSite=Strict"
            # To the address without the token, which stays in no history and works no longer.
            return 303, "", [(b"location", b"/"), (b"set-cookie", value.encode())]
        return 403, "Open the last address that 'medseglatdiff view' has printed; each works once.", []

    def _is_known(self, cookies: str) -> bool:
        try:
            found = SimpleCookie(cookies).get(self.cookie)
        except CookieError:
            return False
        return found is not None and secrets.compare_digest(found.value.encode(), self.secret.encode())


class Guard:
    """ASGI middleware that answers what its gate does not let pass.

    Args:
        app: what is guarded.
        gate: decides.
    """

    def __init__(self, app: Application, gate: Gate) -> None:
        self.app = app
        self.gate = gate

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, or pass it on."""
        status, text, headers = self.gate.judge(scope) if scope["type"] in ("http", "websocket") else (200, "", [])
        if status == 200:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            # Before it is accepted: the server answers the handshake with status 403.
            await send({"type": "websocket.close", "code": 1008, "reason": text})
        else:
            fields = [(b"content-type", b"text/plain; charset=utf-8"), *headers]
            await send({"type": "http.response.start", "status": status, "headers": fields})
            await send({"type": "http.response.body", "body": text.encode()})
