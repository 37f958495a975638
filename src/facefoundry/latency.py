"""Latency of ONNX files on this CPU, side by side."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnxruntime as ort

from facefoundry.export import open_session

WARM_UP = 10


def measure_latency(
    paths: Mapping[str, Path], threads: int = 1, batch: int = 1, rounds: int = 200
) -> dict[str, dict[str, float]]:
    """`{name: {p50_ms, p95_ms, images_per_second}}` per file, in onnxruntime on `threads` threads.

    Every round runs each file once, so that a neighbour's load or the clock's frequency falls on
    all alike: ratios hold where absolute figures do not. `images_per_second` is `batch` over p50.
    """
    sessions = {name: open_session(path, threads) for name, path in paths.items()}
    size = (batch, 3, 112, 112)
    images = np.random.default_rng(0).integers(0, 256, size).astype(np.float32)
    times: dict[str, list[float]] = {name: [] for name in sessions}
    for number in range(WARM_UP + rounds):
        for name, session in sessions.items():
            elapsed = _time_once(session, images)
            if number >= WARM_UP:
                times[name].append(elapsed)
    return {name: _percentiles(values, batch) for name, values in times.items()}


def _time_once(
    session: ort.InferenceSession, images: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> float:
    start = time.perf_counter()
    session.run(None, {session.get_inputs()[0].name: images})
    return (time.perf_counter() - start) * 1000.0


def _percentiles(milliseconds: list[float], batch: int) -> dict[str, float]:
    p50, p95 = np.percentile(milliseconds, [50, 95])
    return {
        "p50_ms": float(p50),
        "p95_ms": float(p95),
        "images_per_second": float(1000.0 * batch / p50),
    }
