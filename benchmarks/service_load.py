"""Throughput and latency of `facefoundry serve` on the loopback, with and without batching.

    python benchmarks/service_load.py --model models/quantize

Starts the service twice (faces embedded one by one, and up to 16 together), keeps CLIENTS requests
to /v1/identify under way for some seconds, and prints what came back. The load comes from the same
machine, so that it takes its share of the processor.
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
import numpy as np


def start(
    model: str, directory: Path, max_batch: int, in_flight: int
) -> tuple[subprocess.Popen, str]:
    command = [sys.executable, "-m", "facefoundry", "serve", "--model", model, "--port", "0"]
    command += ["--gallery", str(directory / "g.db"), "--key-file", str(directory / "key")]
    command += ["--no-keys", "--rate", "1000000", "--in-flight", str(in_flight)]
    command += ["--max-batch", str(max_batch)]
    log = directory / f"log-{max_batch}"
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file)
    while not (found := re.search(r"running on (\S+)", log.read_text())):
        if process.poll() is not None:
            sys.exit(log.read_text())
        time.sleep(0.1)
    return process, found[1]


async def load(address: str, photo: bytes, clients: int, seconds: float) -> list[tuple[int, float]]:
    """(status, seconds) of every answer."""
    answers: list[tuple[int, float]] = []
    end = time.perf_counter() + seconds

    async def ask(client: httpx.AsyncClient) -> None:
        while (begin := time.perf_counter()) < end:
            answer = await client.post("/v1/identify", files={"photo": ("p.jpg", photo)})
            answers.append((answer.status_code, time.perf_counter() - begin))

    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(base_url=address, timeout=60, limits=limits) as client:
        await asyncio.gather(*(ask(client) for _ in range(clients)))
    return answers


def report(name: str, answers: list[tuple[int, float]], seconds: float) -> None:
    taken = 1000 * np.array([taken for status, taken in answers if status == 200])
    p50, p99 = np.percentile(taken, [50, 99])
    statuses = dict(sorted(collections.Counter(status for status, _ in answers).items()))
    rate = len(taken) / seconds
    print(f"{name:28} {rate:6.1f}/s  p50 {p50:6.0f} ms  p99 {p99:6.0f} ms  {statuses}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="models/quantize")
    parser.add_argument("--photo", type=Path, required=True, help="one face")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=15)
    options = parser.parse_args()
    photo = options.photo.read_bytes()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory() as name:
        for title, max_batch, in_flight in (
            ("one by one", 1, 64),
            ("batches of up to 16", 16, 64),
            ("overload: 4 in flight", 16, 4),
        ):
            process, address = start(options.model, Path(name), max_batch, in_flight)
            try:
                asyncio.run(load(address, photo, options.clients, 2))  # warms up
                answers = asyncio.run(load(address, photo, options.clients, options.seconds))
                report(title, answers, options.seconds)
            finally:
                process.terminate()
                process.wait()


if __name__ == "__main__":
    main()
