"""The run before this one, from the scores that every evaluate stage leaves in MLflow.

That works where nothing has been committed, and for DVC experiments as for `dvc repro`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from facefoundry.compare import SCORES, Difference, compare_scores
from facefoundry.errors import FoundryError
from facefoundry.scores import FILE, read_scores

LOOKED_AT = 20  # evaluations, latest first


@dataclass(frozen=True)
class Previous:
    """label: when the run before was evaluated (UTC), and its commit. differences: of this run
    from that one; none where the two judged other pairs."""

    label: str
    differences: list[Difference]


def compare_with_previous(root: Path, seed: int = 0) -> Previous | None:
    """This run's scores against those of the latest evaluation that gave others, among the runs of
    the stage's own MLflow experiment; None without one, or before anything was evaluated."""
    path = root / SCORES
    if not path.is_file():
        return None
    current = path.read_bytes()
    for label, before in _evaluations():
        if before != current:
            base = read_scores(BytesIO(before), f"{FILE} of {label}")
            try:
                found = compare_scores(base, read_scores(path, str(path)), seed)
            except FoundryError:  # they share no set of pairs
                found = []
            return Previous(label, found)
    return None


def _evaluations() -> Iterator[tuple[str, bytes]]:
    """(label, scores.npz) of the evaluations that kept theirs, latest first."""
    import mlflow

    client, active = mlflow.MlflowClient(), mlflow.active_run()
    assert active is not None, "only a running stage has an experiment"
    runs = client.search_runs(
        [active.info.experiment_id],
        "tags.stage = 'evaluate' and attributes.status = 'FINISHED'",
        order_by=["attributes.start_time DESC"],
        max_results=LOOKED_AT,
    )
    for run in runs:
        if any(artifact.path == FILE for artifact in client.list_artifacts(run.info.run_id)):
            with TemporaryDirectory() as folder:
                kept = client.download_artifacts(run.info.run_id, FILE, folder)
                yield _label(run), Path(kept).read_bytes()


def _label(run: Any) -> str:
    started = datetime.fromtimestamp(run.info.start_time / 1000, UTC)
    return f"{started:%Y-%m-%d %H:%M} UTC, commit {run.data.tags.get('commit', 'unknown')}"
