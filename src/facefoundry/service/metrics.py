"""Counters for Prometheus: how many, how fast, how full; nothing about who."""

from __future__ import annotations

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BATCHES = (1, 2, 4, 8, 16, 32)


class Metrics:
    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        labels = ["method", "route", "status"]
        self.seconds = Histogram(
            "facefoundry_request_seconds", "Time to answer", labels, registry=self.registry
        )
        self.decisions = Counter(
            "facefoundry_decisions", "Decisions made", ["kind", "accepted"], registry=self.registry
        )
        self.batch = Histogram(
            "facefoundry_batch_size", "Crops per batch", registry=self.registry, buckets=BATCHES
        )
        self.identities = Gauge(
            "facefoundry_identities", "Identities in the gallery", registry=self.registry
        )

    def decided(self, kind: str, accepted: bool) -> None:
        self.decisions.labels(kind, str(accepted).lower()).inc()

    def text(self, identities: int) -> bytes:
        """The text format of Prometheus."""
        self.identities.set(identities)
        return generate_latest(self.registry)


class Timing:
    """ASGI middleware around everything. Routes are templates, so that no name is in a label."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500

        async def watch_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watch_status)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            taken = self._metrics.seconds.labels(scope["method"], route, str(status))
            taken.observe(time.perf_counter() - start)
