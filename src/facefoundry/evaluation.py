"""Verification of embedders on held-out identities and on folder benchmarks, in one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facefoundry.benchmarks import (
    Embed,
    Images,
    Pairs,
    embed_images,
    find_benchmarks,
    held_out_pairs,
    load_images,
    read_benchmark,
)
from facefoundry.images import contact_sheet, save_png
from facefoundry.references import REFERENCES, reference_embeddings
from facefoundry.verification import (
    Floats,
    confusion,
    hardest_pairs,
    pair_similarity,
    threshold_table,
    verification_metrics,
)


@dataclass(frozen=True)
class PairSet:
    """Images (N, 112, 112, 3) uint8 RGB with pairs; `digest` names a benchmark's content."""

    name: str
    images: Images
    pairs: Pairs
    digest: str | None = None

    def metrics(self, similarity: Floats) -> dict[str, Any]:
        return verification_metrics(similarity, self.pairs.same, self.pairs.fold)


def held_out_set(name: str, images: Images, identities: Sequence[str], seed: int) -> PairSet:
    return PairSet(name, images, held_out_pairs(identities, seed))


def benchmark_sets(root: Path) -> list[PairSet]:
    """Every benchmark under `root`; none where there is none. Raises FoundryError for a bad one."""
    benchmarks = [read_benchmark(directory) for directory in find_benchmarks(root)]
    return [PairSet(b.name, load_images(b), b.pairs, b.digest) for b in benchmarks]


def no_benchmark_note(root: Path) -> str:
    return (
        f"No benchmark was found under {root}: put a folder with images and a pairs.csv there,"
        " then run `dvc repro --force --single-item evaluate quantize` and `dvc repro`."
    )


def similarities(embed: Embed, pair_set: PairSet, flip: bool = True) -> Floats:
    """Cosine (P,) of every pair of the set."""
    embeddings = embed_images(embed, pair_set.images, flip, title=f"embedding {pair_set.name}")
    return pair_similarity(embeddings, pair_set.pairs.index)


def calibrate(embed: Embed, images: Images, identities: Sequence[str], seed: int) -> list[Any]:
    """The threshold table of a model, from held-out synthetic identities."""
    pair_set = held_out_set("calibration pairs", images, identities, seed)
    return threshold_table(similarities(embed, pair_set), pair_set.pairs.same)


def evaluate_set(
    embed: Embed, pair_set: PairSet, thresholds: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, Any], dict[str, Floats]]:
    """Metrics of the model and the references on one set, and every similarity for the plots.

    thresholds: the model's own table; `at_threshold` says what each of its rows does here.
    """
    similarity = similarities(embed, pair_set)
    scores = {"model": similarity}
    metrics = pair_set.metrics(similarity)
    metrics["at_threshold"] = {
        f"fmr_{row['fmr']:.0e}": confusion(similarity, pair_set.pairs.same, row["threshold"])
        for row in thresholds
        if row["threshold"] is not None
    }
    for name in REFERENCES if pair_set.digest else ():
        embeddings = reference_embeddings(name, pair_set.images, str(pair_set.digest))
        scores[name] = pair_similarity(embeddings, pair_set.pairs.index)
        metrics[name] = pair_set.metrics(scores[name])
    return metrics, scores


def write_scores(path: Path, sets: Sequence[tuple[PairSet, Mapping[str, Floats]]]) -> None:
    """All similarities, as arrays `<set>/<model>`, `<set>/same` and `<set>/fold`."""
    arrays: dict[str, Any] = {}
    for pair_set, scores in sets:
        arrays |= {f"{pair_set.name}/{name}": values for name, values in scores.items()}
        arrays |= {
            f"{pair_set.name}/same": pair_set.pairs.same,
            f"{pair_set.name}/fold": pair_set.pairs.fold,
        }
    np.savez_compressed(path, **arrays)


def write_hardest_pairs(path: Path, pair_set: PairSet, similarity: Floats, pairs: int = 8) -> None:
    """A sheet of the worst genuine pairs (two rows, one face above the other) and of the worst
    impostor pairs (two more rows)."""
    rows = []
    for chosen in hardest_pairs(similarity, pair_set.pairs.same, pairs):
        for side in (0, 1):
            rows.append([pair_set.images[i] for i in pair_set.pairs.index[chosen, side]])
    save_png(contact_sheet(rows), path)
