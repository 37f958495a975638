"""Latency of models on this CPU, side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping

import numpy as np

from facefoundry.export import Floats
from facefoundry.progress import track
from facefoundry.runtimes import Runner

WARM_UP = 10


def measure_latency(
    runners: Mapping[str, Runner], batch: int = 1, rounds: int = 200
) -> dict[str, dict[str, float]]:
    """`{name: {p10_ms, p50_ms, p95_ms, images_per_second}}` of each runner on batches of random
    pixels; `images_per_second` is `batch` over p50.

    Every round runs each model once, so that a neighbour's load or the clock's frequency falls on
    all alike: ratios hold where absolute figures do not. On a busy machine ratios of `p10_ms` are
    the fair ones: a wait for the processor is longer than a whole run of a small model.
    """
    size = (batch, 3, 112, 112)
    images = np.random.default_rng(0).integers(0, 256, size).astype(np.float32)
    times: dict[str, list[float]] = {name: [] for name in runners}
    for number in track(range(WARM_UP + rounds), f"timing batches of {batch}", unit="rounds"):
        for name, run in runners.items():
            elapsed = _time_once(run, images)
            if number >= WARM_UP:
                times[name].append(elapsed)
    return {name: _percentiles(values, batch) for name, values in times.items()}


def _time_once(run: Runner, images: Floats) -> float:
    start = time.perf_counter()
    run(images)
    return (time.perf_counter() - start) * 1000.0


def _percentiles(milliseconds: list[float], batch: int) -> dict[str, float]:
    p10, p50, p95 = np.percentile(milliseconds, [10, 50, 95])
    return {
        "p10_ms": float(p10),
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "images_per_second": float(1000.0 * batch / p50),
    }
