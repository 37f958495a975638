"""The run before: found in MLflow by its scores, compared on the same pairs."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from test_compare import scores

from facefoundry.compare import SCORES
from facefoundry.previous_run import Previous, compare_with_previous
from facefoundry.scores import Scores, write_scores
from facefoundry.stage import log_file


@pytest.fixture
def root(tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    shutil.copy(empty_mlflow, tmp_path)
    (tmp_path / SCORES).parent.mkdir(parents=True)
    # MLflow keeps both in the process and in its environment: other tests must not inherit them
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "")
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    mlflow.create_experiment("own", (tmp_path / "kept").as_uri())
    mlflow.set_experiment("own")
    yield tmp_path
    mlflow.set_tracking_uri(None)


def evaluated(root: Path, found: Scores) -> None:
    write_scores(root / SCORES, {"lfw": found})
    with mlflow.start_run(tags={"stage": "evaluate", "commit": "0123abc"}):
        log_file(root / SCORES)


def reported(root: Path) -> Previous | None:
    with mlflow.start_run(tags={"stage": "report"}):
        return compare_with_previous(root)


def verdicts(found: Previous | None) -> set[str]:
    assert found is not None
    return {row.verdict for row in found.differences}


def test_each_run_is_compared_with_the_one_before(root: Path) -> None:
    assert reported(root) is None  # nothing was evaluated
    evaluated(root, scores(0.3, 1))
    assert reported(root) is None  # only this run itself
    evaluated(root, scores(0.45, 2))
    found = reported(root)
    assert verdicts(found) == {"better"} and found.label.endswith("UTC, commit 0123abc")
    evaluated(root, scores(0.45, 2))  # once more with the same result
    assert verdicts(reported(root)) == {"better"}
    evaluated(root, scores(0.3, 1))  # back again: against the last other one, not the first
    assert verdicts(reported(root)) == {"worse"}


def test_other_pairs_and_failed_or_lost_runs(root: Path) -> None:
    evaluated(root, scores(0.3, 1))
    kept = next((root / "kept").rglob("scores.npz"))
    evaluated(root, scores(0.3, 2, digest="other"))
    found = reported(root)
    assert found is not None and found.differences == []
    kept.unlink()
    assert reported(root) is None
