"""How fast a gallery of a million templates opens and answers, and how often as an exact search.

    python benchmarks/gallery.py --templates 1000000

Templates are unit vectors with the falling spectrum and the common direction that face embeddings
have; a probe is a template with noise (cosine about 0.7 to it), or a stranger.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from facefoundry.gallery import Gallery
from facefoundry.progress import track

KEY, MODEL = b"k" * 32, "0" * 64
NOISE = 0.9


def draw(count: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """(count, size) unit vectors; impostors have a mean cosine of about 0.1."""
    spectrum = np.arange(1, size + 1, dtype=np.float32) ** -0.3
    rows = rng.standard_normal((count, size), dtype=np.float32) * spectrum + 0.1
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def timed(work: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--templates", type=int, default=1_000_000)
    parser.add_argument("--size", type=int, default=128, help="numbers in an embedding")
    parser.add_argument(
        "--probes", type=int, default=500, help="genuine ones, and as many strangers"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, threadpool_limits(2):
        measure(Path(directory) / "gallery.db", options.templates, options.size, options.probes)


def measure(path: Path, count: int, size: int, probes: int) -> None:
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    rng = np.random.default_rng(0)
    rows = draw(count, size, rng)
    gallery = Gallery(path, MODEL, size, KEY)
    names = [f"identity {number}" for number in range(count)]
    seconds, _ = timed(lambda: gallery.enroll_many(names, rows))
    print(f"enrol {count:,} at once   {seconds:.1f} s, {path.stat().st_size / 1e6:.0f} MB")
    gallery.close()
    before = time.process_time()
    seconds, gallery = timed(lambda: Gallery(path, MODEL, size, KEY))
    used = time.process_time() - before
    print(f"open                     {seconds:.2f} s, {used:.2f} s of processor time")
    source = rng.integers(0, count, probes)
    genuine = rows[source] + NOISE * draw(probes, size, rng)
    genuine /= np.linalg.norm(genuine, axis=1, keepdims=True)
    print(f"cosine to own template   {np.einsum('nd,nd->n', genuine, rows[source]).mean():.2f}")
    for kind, wanted in (("genuine", genuine), ("strangers", draw(probes, size, rng))):
        report(kind, gallery, rows, wanted)
    seconds, _ = timed(lambda: gallery.enroll("newcomer", draw(1, size, rng)))
    print(f"enrol one                {1000 * seconds:.0f} ms")
    seconds, _ = timed(lambda: gallery.delete(names[0]))
    print(f"delete one               {1000 * seconds:.0f} ms")


def report(kind: str, gallery: Gallery, rows: np.ndarray, probes: np.ndarray) -> None:
    taken, used, hits = [], [], 0
    for probe in track(probes, f"identify, {kind}"):
        exact = f"identity {int((rows @ probe).argmax())}"
        before = time.process_time()
        seconds, found = timed(lambda probe=probe: gallery.identify(probe)[0].name)
        used.append(1000 * (time.process_time() - before))
        taken.append(1000 * seconds)
        hits += found == exact
    p50, p95 = np.percentile(taken, [50, 95])
    work50, work95 = np.percentile(used, [50, 95])  # what it takes on cores that nobody else uses
    recall = hits / len(probes)
    print(f"identify, {kind:<14} p50 {p50:.1f} ms, p95 {p95:.1f} ms, recall@1 {recall:.4f}")
    print(f"  processor time         p50 {work50:.1f} ms, p95 {work95:.1f} ms")


if __name__ == "__main__":
    main()
