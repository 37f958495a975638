"""Time, memory and recall of deduplication, over decades of images and of identities.

    OMP_NUM_THREADS=1 python benchmarks/dedup.py
    OMP_NUM_THREADS=1 python benchmarks/dedup.py --hashes 10000 --identities 10000

Hashes are random, a tenth of them a copy with as many bits flipped as conf/curate.yaml allows, or
fewer. Identities are unit vectors with the falling spectrum and the common direction of face
embeddings, a tenth of them a copy at a cosine between its threshold and 1. Recall is the share of
the copies that are found to repeat their original; "hard" are those just above the threshold. Each
size runs in a process of its own, whose memory before the work is taken off.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import time
from pathlib import Path

import numpy as np
import yaml

from facefoundry.curation.rules import near_duplicates, similar_identities

COPIES = 10  # one in so many
SIZE = 128
LIMITS = yaml.safe_load(Path("conf/curate.yaml").read_text())
HARD = 0.05  # cosines this little above the threshold


def draw(count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, SIZE) unit vectors; strangers have a mean cosine of about 0.1."""
    spectrum = np.arange(1, SIZE + 1, dtype=np.float32) ** -0.3
    return unit(rng.standard_normal((count, SIZE), dtype=np.float32) * spectrum + np.float32(0.1))


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def flipped(hashes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each hash (N,) with 0 to `near_duplicate_bits` different bits turned."""
    bits = LIMITS["near_duplicate_bits"]
    turned = rng.permuted(np.tile(np.arange(64, dtype=np.uint8), (len(hashes), 1)), axis=1)[
        :, :bits
    ]
    used = np.arange(bits) < rng.integers(0, bits + 1, (len(hashes), 1))
    masks = np.where(used, np.uint64(1) << turned.astype(np.uint64), np.uint64(0))
    return hashes ^ np.bitwise_or.reduce(masks, axis=1)


def turned_away(rows: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (N, SIZE) at cosines (N,) between the threshold and 1 to the given ones."""
    cosine = rng.uniform(LIMITS["max_similarity"] + 1e-4, 1, (len(rows), 1)).astype(np.float32)
    aside = draw(len(rows), rng)
    aside = unit(aside - (aside * rows).sum(1, keepdims=True) * rows)
    return cosine * rows + np.sqrt(1 - cosine**2) * aside, cosine[:, 0]


def measure_hashes(count: int) -> dict[str, float]:
    rng = np.random.default_rng(count)
    originals = rng.integers(0, 2**64, count - count // COPIES, dtype=np.uint64)
    source = rng.choice(len(originals), count // COPIES, replace=False)
    hashes = np.concatenate([originals, flipped(originals[source], rng)])
    quality = np.concatenate([rng.random(len(originals)) + 1, rng.random(len(source))])
    costs = Costs()
    found = near_duplicates(hashes, quality.astype(np.float32), LIMITS["near_duplicate_bits"])
    return costs.now() | {"recall": float((found[len(originals) :] == source).mean())}


def measure_identities(count: int) -> dict[str, float]:
    rng = np.random.default_rng(count)
    originals = draw(count - count // COPIES, rng)
    source = rng.choice(len(originals), count // COPIES, replace=False)
    copies, cosine = turned_away(originals[source], rng)
    counts = np.concatenate([np.full(len(originals), 9), np.full(len(copies), 5)])
    centres = np.concatenate([originals, copies])
    costs = Costs()
    found = similar_identities(centres, counts, LIMITS["max_similarity"])
    hits = found[len(originals) :] == source
    hard = cosine < LIMITS["max_similarity"] + HARD
    return costs.now() | {"recall": float(hits.mean()), "hard": float(hits[hard].mean())}


class Costs:
    """Of this process, from here on."""

    def __init__(self) -> None:
        self._memory, self._start, self._used = peak_gib(), time.time(), time.process_time()

    def now(self) -> dict[str, float]:
        used = time.process_time() - self._used
        return {
            "seconds": time.time() - self._start,
            "cpu": used,
            "gib": peak_gib() - self._memory,
        }


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def sizes(text: str) -> list[int]:
    return [int(float(size)) for size in text.split(",") if size]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--hashes", type=sizes, default="1e4,1e5,1e6,1e7")
    parser.add_argument("--identities", type=sizes, default="1e4,1e5,1e6")
    options = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print("| what | count | seconds | CPU seconds | peak GiB | recall | recall, hard |")
    print("|---|---|---|---|---|---|---|")
    spawn = multiprocessing.get_context("spawn")
    for measure, counts in (
        (measure_hashes, options.hashes),
        (measure_identities, options.identities),
    ):
        for count in counts:
            with spawn.Pool(1) as pool:
                print(line(measure.__name__, count, pool.apply(measure, [count])), flush=True)


def line(name: str, count: int, found: dict[str, float]) -> str:
    what = name.removeprefix("measure_")
    hard = f"{found['hard']:.4f}" if "hard" in found else ""
    costs = f"{found['seconds']:.1f} | {found['cpu']:.1f} | {found['gib']:.2f}"
    return f"| {what} | {count:,} | {costs} | {found['recall']:.6f} | {hard} |"


if __name__ == "__main__":
    main()
