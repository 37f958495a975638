"""What a request must pass before it is worked on: key, rate, room, size of its body."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from facefoundry.service.auth import matching

OPEN_KEY = "anybody"  # whose rate is counted where keys are off
BODY_SECONDS = 20.0
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob: data:;"
    " frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Permissions-Policy": "camera=(self)",
}


@dataclass(frozen=True)
class Limits:
    """requests_per_second (and as burst twice that) for each key; in_flight requests at once;
    body_bytes and pixels of one request's body and of each of its images."""

    requests_per_second: float = 50.0
    in_flight: int = 32
    body_bytes: int = 10_000_000
    pixels: int = 16_000_000


class RateLimiter:
    """A token bucket for each key: `burst` requests at once, refilled at `per_second`."""

    def __init__(
        self, per_second: float, burst: float, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._burst, self._now = per_second, burst, now
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, key: str) -> float:
        """0 if the request may pass, else the seconds after which one may."""
        now = self._now()
        tokens, last = self._buckets.get(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - last) * self._rate)
        passes = tokens >= 1
        self._buckets[key] = (tokens - 1 if passes else tokens, now)
        return 0.0 if passes else (1 - tokens) / self._rate


class RefusedError(Exception):
    """A request that is answered without being worked on."""

    def __init__(self, status: int, code: str, detail: str, wait: float = 0.0) -> None:
        self.status, self.code, self.detail, self.wait = status, code, detail, wait

    def response(self) -> JSONResponse:
        headers = {"Connection": "close"} if self.status in (408, 413) else {}
        if self.status == 429:
            headers["Retry-After"] = str(max(1, round(self.wait)))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse({"detail": self.detail, "code": self.code}, self.status, headers)


class Guard:
    """ASGI middleware before everything under `guarded`; the page and /health are open.

    A whole body of at most `body_bytes` is read before the application runs, so that a slow or
    endless sender costs a place in flight for BODY_SECONDS and no more memory than that.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, keys: list[str] | None, guarded: tuple[str, ...]
    ) -> None:
        self._app, self._limits, self._keys, self._guarded = app, limits, keys, guarded
        self._rate = RateLimiter(limits.requests_per_second, 2 * limits.requests_per_second)
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(self._guarded):
            await self._app(scope, receive, send)
            return
        try:
            self._admit(Headers(scope=scope))
        except RefusedError as refusal:
            await refusal.response()(scope, receive, send)
            return
        self._in_flight += 1
        try:
            await self._work(scope, receive, send)
        finally:
            self._in_flight -= 1

    async def _work(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            body = await asyncio.wait_for(self._read(receive), BODY_SECONDS)
        except RefusedError as refusal:
            await refusal.response()(scope, receive, send)
        except TimeoutError:
            late = RefusedError(408, "slow_body", f"the body took more than {BODY_SECONDS:.0f} s")
            await late.response()(scope, receive, send)
        else:
            await self._app(scope, _replay(body, receive), send)

    def _admit(self, headers: Headers) -> None:
        who = self._who(headers)
        wait = self._rate.take(who)
        if wait:
            raise RefusedError(429, "rate_limit", "too many requests with this key; wait", wait)
        if self._in_flight >= self._limits.in_flight:
            raise RefusedError(429, "overload", "too many requests at once; try again", 1.0)
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self._limits.body_bytes:
            raise self._too_large()

    def _who(self, headers: Headers) -> str:
        if self._keys is None:
            return OPEN_KEY
        kind, _, key = headers.get("authorization", "").partition(" ")
        known = matching(key, self._keys) if kind.lower() == "bearer" else None
        if known is None:
            detail = "give the API key: Authorization: Bearer KEY"
            raise RefusedError(401, "key", detail)
        return known

    async def _read(self, receive: Receive) -> bytes:
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            part = message.get("body", b"")
            size += len(part)
            if size > self._limits.body_bytes:
                raise self._too_large()
            parts.append(part)
            more = message.get("more_body", False)
        return b"".join(parts)

    def _too_large(self) -> RefusedError:
        return RefusedError(
            413, "body", f"the body is larger than {self._limits.body_bytes:,} bytes"
        )


def _replay(body: bytes, receive: Receive) -> Receive:
    """First the body that was read, then what the server says next (a disconnection)."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return pending.pop() if pending else await receive()

    return receive_again


class SafeHeaders:
    """ASGI middleware: what browsers are told on every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)
