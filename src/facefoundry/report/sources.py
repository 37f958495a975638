"""Everything the page is made from, read once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facefoundry.previous_run import Previous
from facefoundry.results import (
    STAGES,
    Metrics,
    evaluated_sets,
    pick,
    read_json,
    read_metrics,
)
from facefoundry.scores import FILE, Scores, read_scores
from facefoundry.verification import operating_point


@dataclass(frozen=True)
class Sources:
    """`metrics` by stage (absent: not run), scores by set, and the rest where it exists.
    `previous`: how this run compares with the one before."""

    root: Path
    metrics: dict[str, Metrics]
    scores: dict[str, Scores]
    curves: dict[str, list[dict[str, float]]]
    models: dict[str, Metrics]
    removed: list[dict[str, Any]]
    embedding_map: Metrics | None
    previous: Previous | None = None

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


def read_sources(root: Path, previous: Previous | None = None) -> Sources:
    """Read what is there. Raises FoundryError naming a file that is damaged."""
    models = {name: read_json(root / STAGES[name] / "model.json") for name in ("train", "distill")}
    return Sources(
        root=root,
        metrics=read_metrics(root),
        scores=_read_scores(root / STAGES["evaluate"] / FILE),
        curves={
            name: read_json(root / STAGES[name] / "curves.json") or []
            for name in ("train", "distill")
        },
        models={name: spec for name, spec in models.items() if spec is not None},
        removed=read_json(root / STAGES["curate"] / "removed.json") or [],
        embedding_map=read_json(root / STAGES["evaluate"] / "embedding_map.json"),
        previous=previous,
    )


def _read_scores(path: Path) -> dict[str, Scores]:
    return read_scores(path, str(path)) if path.is_file() else {}
