"""What stands before the server: who may ask, for which routes, how much, and how browsers must treat the answers."""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Iterable
from contextlib import nullcontext, suppress
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from attncontrol.demo.traces import Places
from attncontrol.demo.visitors import Logins, Presence, TooMuch, Uploads

PREFIX = "gradio_api/"
STARTUP = "gradio_api/startup-events"  # asked for by Gradio itself, once
# All that the page and gradio_client ask for: what Gradio has besides, for developers, is not served.
ROUTES = frozenset(
    "config login logout theme.css favicon.ico robots.txt manifest.json gradio_api/app_id gradio_api/cancel "
    "gradio_api/info gradio_api/login_check gradio_api/reset gradio_api/theme.css "
    "gradio_api/token gradio_api/user gradio_api/upload gradio_api/upload_progress gradio_api/queue/join "
    "gradio_api/queue/data gradio_api/queue/status".split()
)
FOLDERS = tuple(
    "assets/ static/ svelte/ pwa_icon gradio_api/api/ gradio_api/call/ gradio_api/component_server gradio_api/file= "
    "gradio_api/heartbeat/ gradio_api/run/".split()
)
# Gradio answers these without a login, though they touch what a session has.
OPEN_IN_GRADIO = ("gradio_api/cancel", "gradio_api/reset", "gradio_api/heartbeat/")
LOCAL = "localhost"
ENVELOPE = 2**16  # bytes of a request besides the file in it
HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "SAMEORIGIN",
    "Referrer-Policy": "same-origin",
    # Gradio's page makes scripts from strings
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'self'",
}


class Refused(Exception):
    """A request is not answered: the status, and a sentence."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Guard:
    """ASGI middleware that refuses foreign pages, unknown names of the server, routes nobody needs, and floods.

    names: host names under which the server may be asked for, besides localhost and addresses in numbers.
    upload: the largest file, in bytes. started: set when the server has asked itself to start.
    """

    def __init__(
        self,
        app: ASGIApp,
        names: Iterable[str],
        upload: int,
        presence: Presence,
        uploads: Uploads,
        started: threading.Event,
    ) -> None:
        self.app, self.largest, self.started = app, upload + ENVELOPE, started
        self.names = {LOCAL, socket.gethostname().lower(), *(name.lower() for name in names)}
        self.presence, self.uploads, self.logins = presence, uploads, Logins()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request, or lets the app answer it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        send = partial(_send_guarded, send)
        try:
            await self._answer(scope, receive, send)
        except Refused as refusal:
            await PlainTextResponse(str(refusal), refusal.status)(scope, receive, send)
        except TooMuch as refusal:
            await PlainTextResponse(str(refusal), 429)(scope, receive, send)
        except Exception:  # the server would log its text
            Places.print_exc()
            with suppress(RuntimeError):  # the answer has begun
                await PlainTextResponse("This failed in a way nobody foresaw.", 500)(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers, path = Headers(scope=scope), scope["path"].strip("/")
        self._check_host(headers)
        _check_origin(headers, scope["method"], path)
        served = not path or path in ROUTES or path.startswith(FOLDERS)
        if not served and (path != STARTUP or self.started.is_set()):
            raise Refused(404, "There is no such page.")
        size = self._size(headers)
        address = scope["client"][0] if scope.get("client") else ""
        if path == "gradio_api/upload" and scope["method"] == "POST":
            self.uploads.take(address, size)
        scope["headers"] = [(k, v) for k, v in scope["headers"] if k != b"x-gradio-server"]
        receive = partial(self._receive, receive, [0])
        if path == "login" and scope["method"] == "POST":
            await self._login(address, scope, receive, send)
            return
        if path.startswith(OPEN_IN_GRADIO):
            await self._check_login(scope)
        session = _session(path, scope)
        with self.presence.listening(session) if session else nullcontext():
            await self.app(scope, receive, send)

    def _check_host(self, headers: Headers) -> None:
        """Raises Refused for a name that is not this server's, as a page that rebinds its name would send."""
        for host in [headers.get("host", ""), *headers.getlist("x-forwarded-host")]:
            name = urlsplit(f"//{host}").hostname or ""
            if name not in self.names and not _is_address(name):
                raise Refused(403, "This server does not answer under that name; see --public-host.")

    def _size(self, headers: Headers) -> int:
        """The bytes of a request's body at most. Raises Refused if they are too many."""
        text = headers.get("content-length", str(self.largest))
        if not (text.isdecimal() and len(text) < 20):
            raise Refused(400, "The request's length is no number.")
        if int(text) > self.largest:
            raise Refused(413, "This is larger than what is allowed here.")
        return int(text)

    async def _receive(self, receive: Receive, received: list[int]) -> Message:
        """The next part of the body, which may come without a length told before."""
        message = await receive()
        received[0] += len(message.get("body", b""))
        if received[0] > self.largest:
            raise Refused(413, "This is larger than what is allowed here.")
        return message

    async def _check_login(self, scope: Scope) -> None:
        """Raises Refused if Gradio says to the same cookies that they are no login."""
        path, statuses = f"/{PREFIX}login_check", []

        async def receive() -> Message:
            return {"type": "http.request"}

        async def note(message: Message) -> None:
            statuses.append(message.get("status"))

        await self.app({**scope, "method": "GET", "path": path, "raw_path": path.encode()}, receive, note)
        if statuses[0] != 200:
            raise Refused(401, "Log in first.")

    async def _login(self, address: str, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_noting(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] in (200, 400):
                self.logins.tell(address, right=message["status"] == 200)
            await send(message)

        async with self.logins.turn(address):
            await self.app(scope, receive, send_noting)


def _check_origin(headers: Headers, method: str, path: str) -> None:
    """Raises Refused for what another site's page sends; a link to the page itself is none of that."""
    origin = headers.get("origin")
    own = [headers.get("host", ""), *headers.getlist("x-forwarded-host")]
    if origin is not None and urlsplit(origin).netloc.lower() not in [host.lower() for host in own]:
        raise Refused(403, "Pages of other sites may not ask here.")
    link = method == "GET" and path in ("", "login") and headers.get("sec-fetch-mode") == "navigate"
    if headers.get("sec-fetch-site") == "cross-site" and not link:
        raise Refused(403, "Pages of other sites may not ask here.")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _session(path: str, scope: Scope) -> str | None:
    """The session whose stream a request opens."""
    if scope["method"] != "GET":
        return None
    if path == PREFIX + "queue/data":
        return parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [None])[0]
    streams = (PREFIX + "heartbeat/", PREFIX + "call/")  # a call without a session has its event's id for one
    return path.rsplit("/", 1)[1] if path.startswith(streams) else None


async def _send_guarded(send: Send, message: Any) -> None:
    """Adds the headers; the cookie of a login is for this site only."""
    if message["type"] == "http.response.start":
        headers = MutableHeaders(scope=message)
        headers.update(HEADERS)
        message["headers"] = [
            (k, v.replace(b"SameSite=none", b"SameSite=lax") if k.lower() == b"set-cookie" else v)
            for k, v in message["headers"]
        ]
    await send(message)
