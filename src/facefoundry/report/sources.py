"""Everything the page is made from, read once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facefoundry.errors import FoundryError
from facefoundry.results import (
    STAGES,
    SYNTHETIC,
    Metrics,
    evaluated_sets,
    pick,
    read_json,
    read_metrics,
)
from facefoundry.verification import operating_point


@dataclass(frozen=True)
class Scores:
    """One evaluated set: `models` maps a model's name to its similarities (P,)."""

    models: dict[str, NDArray[np.float32]]
    same: NDArray[np.bool_]
    fold: NDArray[np.int64]


@dataclass(frozen=True)
class Sources:
    """`metrics` by stage (absent: not run), scores by set, and the rest where it exists."""

    root: Path
    metrics: dict[str, Metrics]
    scores: dict[str, Scores]
    curves: dict[str, list[dict[str, float]]]
    models: dict[str, Metrics]
    removed: list[dict[str, Any]]

    def file(self, stage: str, name: str) -> Path | None:
        """A stage's file, or None where there is none."""
        path = self.root / STAGES[stage] / name
        return path if path.is_file() else None

    @property
    def main_set(self) -> str | None:
        """The set that the first sentences speak of: a benchmark if there is one."""
        return next(iter(evaluated_sets(self.metrics)), None)

    @property
    def operating_point(self) -> Metrics | None:
        """The row of the model's threshold table to judge by."""
        return operating_point(pick(self.models.get("train"), "thresholds") or [])


def read_sources(root: Path) -> Sources:
    """Read what is there. Raises FoundryError naming a file that is damaged."""
    models = {name: read_json(root / STAGES[name] / "model.json") for name in ("train", "distill")}
    return Sources(
        root=root,
        metrics=read_metrics(root),
        scores=_read_scores(root / STAGES["evaluate"] / "scores.npz"),
        curves={
            name: read_json(root / STAGES[name] / "curves.json") or []
            for name in ("train", "distill")
        },
        models={name: spec for name, spec in models.items() if spec is not None},
        removed=read_json(root / STAGES["curate"] / "removed.json") or [],
    )


def _read_scores(path: Path) -> dict[str, Scores]:
    """Sets by name, benchmarks before the synthetic one."""
    if not path.is_file():
        return {}
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
        names = sorted(
            {key.rpartition("/")[0] for key in arrays}, key=lambda n: (n == SYNTHETIC, n)
        )
        return {name: _scores_of(name, arrays) for name in names}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise FoundryError(
            f"{path}: not readable as scores ({error}); delete it and run `dvc repro`"
        ) from error


def _scores_of(name: str, arrays: dict[str, NDArray[Any]]) -> Scores:
    models = {
        key.rpartition("/")[2]: values
        for key, values in arrays.items()
        if key.rpartition("/")[0] == name and key.rpartition("/")[2] not in ("same", "fold")
    }
    return Scores(models, arrays[f"{name}/same"].astype(bool), arrays[f"{name}/fold"])
