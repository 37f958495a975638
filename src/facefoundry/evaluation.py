"""Verification of embedders on held-out identities and on benchmarks, in one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facefoundry.annotations import NOTHING, Annotations, linked_identities, read_annotations
from facefoundry.benchmarks import (
    Embed,
    Embeddings,
    Images,
    Pairs,
    embed_images,
    find_benchmarks,
    held_out_pairs,
    load_images,
    read_benchmark,
)
from facefoundry.bin_benchmark import read_bin
from facefoundry.bootstrap import accuracy_interval, tar_intervals
from facefoundry.errors import FoundryError
from facefoundry.fairness import fairness_metrics
from facefoundry.identification import identification_metrics
from facefoundry.references import REFERENCES, reference_embeddings
from facefoundry.scores import Scores
from facefoundry.verification import (
    Floats,
    confusion,
    fold_accuracies,
    operating_point,
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
    annotations: Annotations = NOTHING

    def metrics(self, similarity: Floats) -> dict[str, Any]:
        return verification_metrics(similarity, self.pairs.same, self.pairs.fold)

    def pair_identities(self) -> NDArray[np.int64]:
        """(P, 2) the identity of each image of each pair; where nothing names them, those that
        genuine pairs link."""
        identity = self.annotations.identity
        if identity is None:
            identity = linked_identities(self.pairs.index, self.pairs.same, len(self.images))
        return np.asarray(identity[self.pairs.index], np.int64)

    def scores(self, models: Mapping[str, Floats]) -> Scores:
        """The similarities (P,) of each model, with what says which pairs they are of."""
        digest = self.digest or sha256(self.images.tobytes() + self.pairs.index.tobytes())
        return Scores(
            models=dict(models),
            same=self.pairs.same,
            fold=self.pairs.fold,
            identity=self.pair_identities(),
            digest=digest if isinstance(digest, str) else digest.hexdigest(),
        )


def held_out_set(
    name: str,
    images: Images,
    identities: Sequence[str],
    seed: int,
    annotations: Annotations = NOTHING,
) -> PairSet:
    return PairSet(name, images, held_out_pairs(identities, seed), annotations=annotations)


def benchmark_sets(root: Path) -> list[PairSet]:
    """Every benchmark under `root`, folders and InsightFace's `.bin` files, by name; none where
    there is none. Raises FoundryError for a bad one, or for two of one name."""
    found = [_folder_set(directory) for directory in find_benchmarks(root)]
    for path in sorted(root.glob("*.bin")):
        images, pairs, digest = read_bin(path)
        found.append(PairSet(path.stem, images, pairs, digest))
    names = [pair_set.name for pair_set in found]
    for name in names:
        if names.count(name) > 1:
            raise FoundryError(f"{root}: two benchmarks are named {name}; rename one of them")
    return sorted(found, key=lambda pair_set: pair_set.name)


def _folder_set(directory: Path) -> PairSet:
    benchmark = read_benchmark(directory)
    names = [path.relative_to(directory).as_posix() for path in benchmark.paths]
    annotations = read_annotations(directory, names)
    images = load_images(benchmark)
    return PairSet(benchmark.name, images, benchmark.pairs, benchmark.digest, annotations)


def no_benchmark_note(root: Path) -> str:
    return (
        f"No benchmark was found under {root}: put a folder with images and a pairs.csv there,"
        " then run `dvc repro --force --single-item evaluate quantize` and `dvc repro`."
    )


def embed_set(embed: Embed, pair_set: PairSet, flip: bool = True) -> Embeddings:
    """(N, D) L2-normalised embeddings of the set's images."""
    return embed_images(embed, pair_set.images, flip, title=f"embedding {pair_set.name}")


def similarities(embed: Embed, pair_set: PairSet, flip: bool = True) -> Floats:
    """Cosine (P,) of every pair of the set."""
    return pair_similarity(embed_set(embed, pair_set, flip), pair_set.pairs.index)


def calibrate(embed: Embed, images: Images, identities: Sequence[str], seed: int) -> list[Any]:
    """The threshold table of a model, from held-out synthetic identities."""
    pair_set = held_out_set("calibration pairs", images, identities, seed)
    return threshold_table(similarities(embed, pair_set), pair_set.pairs.same)


def evaluate_set(
    embeddings: Embeddings, pair_set: PairSet, thresholds: Sequence[Mapping[str, Any]], seed: int
) -> dict[str, Any]:
    """Every measure of the model on one set, from its embeddings (N, D).

    thresholds: the model's own table; `at_threshold` says what each of its rows does here.
    Groups are judged at its operating point. Identification needs to know who is on each image.
    """
    pairs, annotations = pair_set.pairs, pair_set.annotations
    similarity = pair_similarity(embeddings, pairs.index)
    metrics = pair_set.metrics(similarity) | intervals(similarity, pair_set, seed)
    metrics["at_threshold"] = {
        f"fmr_{row['fmr']:.0e}": confusion(similarity, pairs.same, row["threshold"])
        for row in thresholds
        if row["threshold"] is not None
    }
    if annotations.identity is not None:
        metrics["identification"] = identification_metrics(embeddings, annotations.identity, seed)
    point = operating_point(thresholds)
    if point and annotations.groups:
        metrics["fairness"] = {"threshold": point["threshold"]} | fairness_metrics(
            similarity, pairs.same, pairs.index, annotations.groups, point["threshold"]
        )
    return metrics


def intervals(similarity: Floats, pair_set: PairSet, seed: int) -> dict[str, Any]:
    """`accuracy_interval` over folds and `rates`, TAR at each FMR, resampled by identity."""
    pairs = pair_set.pairs
    accuracies = fold_accuracies(similarity, pairs.same, pairs.fold)
    low, high = accuracy_interval(accuracies, seed)
    return {
        "accuracy_interval": {"low": low, "high": high},
        "rates": tar_intervals(similarity, pairs.same, seed, pair_set.pair_identities()),
    }


def reference_scores(pair_set: PairSet, others: Mapping[str, Embed]) -> dict[str, Floats]:
    """Similarities (P,) by each reference and by `others`, the embedders that the user names."""
    embeddings = {
        name: reference_embeddings(name, pair_set.images, str(pair_set.digest))
        for name in (REFERENCES if pair_set.digest else ())
    }
    embeddings |= {
        name: embed_images(embed, pair_set.images, flip=False, title=f"{name} on {pair_set.name}")
        for name, embed in others.items()
    }
    return {
        name: pair_similarity(found, pair_set.pairs.index) for name, found in embeddings.items()
    }
