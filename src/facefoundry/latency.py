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
    """`{name: {p50_ms, p95_ms, cpu_ms, images_per_second}}` of each runner on batches of random
    pixels; `images_per_second` is `batch` over p50.

    Every round runs each model once, so that a neighbour's load or the clock's frequency falls on
    all alike. `cpu_ms`, the median of the process's processor time, leaves out the waiting for a
    core, which on a busy machine falls on long runs: compare by it there.
    """
    size = (batch, 3, 112, 112)
    images = np.random.default_rng(0).integers(0, 256, size).astype(np.float32)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runners}
    for number in track(range(WARM_UP + rounds), f"timing batches of {batch}", unit="rounds"):
        for name, run in runners.items():
            spent = _time_once(run, images)
            if number >= WARM_UP:
                times[name].append(spent)
    return {name: _percentiles(values, batch) for name, values in times.items()}


def _time_once(run: Runner, images: Floats) -> tuple[float, float]:
    """Milliseconds by the clock, and of processor time."""
    start, cpu = time.perf_counter(), time.process_time()
    run(images)
    spent = time.perf_counter() - start, time.process_time() - cpu
    return spent[0] * 1000.0, spent[1] * 1000.0


def _percentiles(times: list[tuple[float, float]], batch: int) -> dict[str, float]:
    clock, cpu = np.array(times).T
    p50, p95 = np.percentile(clock, [50, 95])
    return {
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "cpu_ms": float(np.median(cpu)),
        "images_per_second": float(1000.0 * batch / p50),
    }
