"""scores.npz: every similarity of a run, with what says which pairs they are of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from facefoundry.errors import FoundryError
from facefoundry.results import SYNTHETIC

FILE = "scores.npz"
EDGES = np.linspace(-0.5, 1, 31)  # of the bins of a histogram of similarities
PAIRS = ("same", "fold", "identity", "digest")


@dataclass(frozen=True)
class Scores:
    """One evaluated set of P pairs. models: similarities (P,) by model name. identity: (P, 2)
    numbers of the identities of each pair. digest: of the images and the pairs over them."""

    models: dict[str, NDArray[np.float32]]
    same: NDArray[np.bool_]
    fold: NDArray[np.int64]
    identity: NDArray[np.int64]
    digest: str


def histogram(similarity: NDArray[np.floating[Any]]) -> list[float]:
    """Share of the pairs in each bin of EDGES, those beyond counted in the outermost."""
    counts = np.histogram(np.clip(similarity, EDGES[0], EDGES[-1]), EDGES)[0]
    return (counts / max(len(similarity), 1)).round(5).tolist()


def write_scores(path: Path, sets: Mapping[str, Scores]) -> None:
    """Arrays `<set>/<model>` and `<set>/<one of PAIRS>`."""
    arrays: dict[str, Any] = {}
    for name, scores in sets.items():
        arrays |= {f"{name}/{model}": values for model, values in scores.models.items()}
        arrays |= {f"{name}/{key}": getattr(scores, key) for key in PAIRS}
    np.savez_compressed(path, **arrays)


def read_scores(file: Path | IO[bytes], name: str) -> dict[str, Scores]:
    """Sets by name, benchmarks before the synthetic one. Raises FoundryError naming the file."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            loaded = {key: arrays[key] for key in arrays.files}
        names = {key.rpartition("/")[0] for key in loaded}
        order = sorted(names, key=lambda found: (found == SYNTHETIC, found))
        return {found: _scores_of(found, loaded) for found in order}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise FoundryError(
            f"{name}: not readable as scores ({error}); delete it and run `dvc repro`"
        ) from error


def _scores_of(name: str, arrays: Mapping[str, NDArray[Any]]) -> Scores:
    own = {
        key.rpartition("/")[2]: values
        for key, values in arrays.items()
        if key.rpartition("/")[0] == name
    }
    return Scores(
        models={key: values for key, values in own.items() if key not in PAIRS},
        same=own["same"].astype(bool),
        fold=own["fold"],
        identity=own["identity"],
        digest=str(own["digest"]),
    )
