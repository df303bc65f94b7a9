"""What every request has to pass: host, origin, token, and the size and pace of its body."""

import asyncio
import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from longlive_recipes.configs.serve import Serve, is_loopback

COOKIE = "longlive-token"
_SMALL = 64 << 10
_UPLOADS = ("/v1/images", "/v1/sessions", "/v1/sessions/replay", "/v1/videos")
_OPEN = ("/", "/app.js", "/player.js", "/style.css", "/icon.svg", "/v1/token")
"""Paths that need no token: the page, which holds no secret, and the one that takes it."""
_MOST_HEADERS = 32 << 10
_STALLED = 20.0
"""Seconds that a client may pause within a body."""
_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "media-src 'self' blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def refusal(message: str, status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer to a request that is not carried out: one sentence."""
    kind = "server_error" if status >= 500 else _KINDS.get(status, "invalid_request_error")
    error = {"message": message, "type": kind, "code": str(status), "param": None}
    return JSONResponse({"error": error}, status, dict(headers or {}))


def cookie_of(token: str) -> str:
    """What the page's cookie holds: the token's hash, so that the token itself is not kept."""
    return hashlib.sha256(f"longlive {token}".encode()).hexdigest()


def same(one: str, other: str) -> bool:
    """Whether two secrets are the same, in a time that tells nothing."""
    return hmac.compare_digest(one.encode(), other.encode())


class Guard:
    """The outermost application: it refuses requests, and marks all answers.

    A browser's page of another site is kept out by its Origin and Sec-Fetch-Site, one that has
    got this machine's address for its own name (DNS rebinding) by its Host.
    """

    def __init__(self, app: ASGIApp, config: Serve, hostname: str = "") -> None:
        self._app, self._token = app, config.token
        self._uploads = config.limits.upload_mb << 20
        names = {"localhost", "127.0.0.1", "::1", config.host, hostname, *config.names}
        self._names = {name.lower() for name in names if name}
        self._any_address = not is_loopback(config.host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        headers = Headers(scope=scope)
        refused = self._refused(scope["path"], headers)
        if refused is not None:
            await refused(scope, receive, marked)
            return
        most = self._uploads if scope["path"].rstrip("/") in _UPLOADS else _SMALL
        announced = headers.get("content-length", "0")
        if not announced.isdecimal() or len(announced) > 18 or int(announced) > most:
            answer = refusal(
                f"the body of this request has {most:,} bytes at most: send less.",
                413,
                {"connection": "close"},
            )
            await answer(scope, receive, marked)
            return
        body = _Body(receive, most)
        started = False

        async def watched(message: Message) -> None:
            nonlocal started
            started = True
            await marked(message)

        try:
            await self._app(scope, body.receive, watched)
        except _BadBody as bad:
            if not started:
                answer = refusal(bad.detail, bad.status_code, bad.headers)
                await answer(scope, receive, marked)

    def _refused(self, path: str, headers: Headers) -> JSONResponse | None:
        if sum(len(name) + len(value) for name, value in headers.raw) > _MOST_HEADERS:
            return refusal("the head of this request is too large: send less.", 431)
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or not self._is_ours(host):
            return refusal(
                "this server is not reached by that name: use the address that it printed, or "
                "start it with --name.",
                403,
            )
        origin = headers.get("origin")
        if origin is not None and not _is_same_origin(origin, host):
            return refusal("pages of other sites may not use this server.", 403)
        public = path in _OPEN
        if not public and headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return refusal("pages of other sites may not use this server.", 403)
        if self._token is None or public or self._is_known(headers):
            return None
        return refusal(
            "this server wants its token: send it as 'Authorization: Bearer TOKEN'.",
            401,
            {"www-authenticate": "Bearer"},
        )

    def _is_ours(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
        except ValueError:
            return False
        if name in self._names:
            return True
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return self._any_address  # an address cannot be rebound, a name can

    def _is_known(self, headers: Headers) -> bool:
        assert self._token is not None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and same(given.strip(), self._token):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and same(cookie.value, cookie_of(self._token))


def _is_same_origin(origin: str, host: str) -> bool:
    return origin.lower() in (f"http://{host.lower()}", f"https://{host.lower()}")


class _BadBody(HTTPException):
    """A body that is too large, or does not come; the connection cannot be used again."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message, {"connection": "close"})


class _Body:
    """A request's body, of a limited size, that may not pause for long."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive, self._most = receive, most
        self._whole = False

    async def receive(self) -> Message:
        """The next message of the request."""
        if self._whole:
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), _STALLED)
        except TimeoutError:
            raise _BadBody(408, "the rest of the request did not come in time.") from None
        if message["type"] == "http.request":
            self._most -= len(message.get("body", b""))
            self._whole = not message.get("more_body", False)
        if self._most < 0:
            raise _BadBody(413, "the body of this request is too large: send less.")
        return message
