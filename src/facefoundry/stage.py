"""What makes a function `(cfg, out) -> metrics` a stage of the DAG.

`@stage("train")` composes `conf/train.yaml` (which pulls its headline knobs from `params.yaml`),
opens an MLflow run under the pipeline's parent run, writes `metrics.json` beside the outputs, and
turns a FoundryError into one line and exit status 1. Nothing else here imports Hydra or MLflow.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import hydra
from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from facefoundry.cost import Meter
from facefoundry.errors import FoundryError, is_disk_full
from facefoundry.journal import record
from facefoundry.keeping import published, until_done
from facefoundry.params import check_choices, check_params, knob
from facefoundry.tracking import project_folder, tracked

StageFunction = Callable[[DictConfig, Path], Mapping[str, Any]]

PIPELINE_TAG = "facefoundry.pipeline"
EXPERIMENT = "facefoundry"
LOCK = Path(".cache/mlflow.lock")


def stage(name: str) -> Callable[[StageFunction], Callable[[], None]]:
    """Make `(cfg, out) -> metrics` the entry point of the stage `name`."""

    def decorate(function: StageFunction) -> Callable[[], None]:
        @functools.wraps(function)
        def main() -> None:
            OmegaConf.register_new_resolver("params", knob, replace=True)
            _or_exit(name, functools.partial(check_params, name))
            _or_exit(name, functools.partial(check_choices, sys.argv[1:]))
            compose = hydra.main(
                config_path=str(Path("conf").absolute()), config_name=name, version_base="1.3"
            )
            run = functools.partial(_run, name, function)
            run.__module__ = f"stages.{name}"  # Hydra's name for it, on top of --help and in logs
            compose(run)()

        return main

    return decorate


def plain(cfg: DictConfig) -> dict[str, Any]:
    """A config node as a plain, resolved dictionary with string keys."""
    return {str(key): value for key, value in OmegaConf.to_container(cfg, resolve=True).items()}  # type: ignore[union-attr]


def log_metrics(metrics: Mapping[str, float], step: int) -> None:
    """Log points of a curve to the running stage's MLflow run."""
    import mlflow

    mlflow.log_metrics(dict(metrics), step=step)


def log_file(path: Path) -> None:
    """Keep a file beside the running stage's MLflow run."""
    import mlflow

    mlflow.log_artifact(str(path))


def log_to_pipeline(metrics: Mapping[str, Any], params: Mapping[str, Any], page: Path) -> None:
    """Log every stage's metrics and the report to the pipeline's parent run: one row each."""
    import mlflow

    client = mlflow.MlflowClient()
    run = mlflow.active_run()
    assert run is not None, "only a running stage can log to its pipeline"
    parent = run.data.tags["mlflow.parentRunId"]
    for key, value in _flatten(metrics).items():
        if isinstance(value, int | float):
            client.log_metric(parent, _metric_key(key), float(value))
    for key, value in _flatten(params).items():
        client.log_param(parent, key, value)
    client.log_artifact(parent, str(page))


def composed(name: str, overrides: Sequence[str]) -> DictConfig:
    """The config of a stage with overrides as on the command line, outside Hydra's entry point."""
    OmegaConf.register_new_resolver("params", knob, replace=True)
    with hydra.initialize_config_dir(str(Path("conf").absolute()), version_base="1.3"):
        return hydra.compose(name, overrides=list(overrides))


def run_trial(
    name: str, function: StageFunction, overrides: Sequence[str], sweep: str, label: str
) -> dict[str, Any]:
    """Run a stage in this process, outside Hydra's entry point; return its metrics.

    overrides: as on the command line, `out` among them. sweep: the MLflow parent to stand under;
    label: the name of the run.
    """
    cfg = composed(name, overrides)
    return _tracked(name, function, cfg, Path(cfg.out), f"sweep {sweep}", label)


def _run(name: str, function: StageFunction, cfg: DictConfig) -> float | None:
    out = Path(HydraConfig.get().runtime.output_dir)
    if _process_rank() > 0:  # the first process of a distributed training does the book-keeping
        _or_exit(name, lambda: dict(function(cfg, out)))
        return None
    objective, label = cfg.get("objective"), os.environ.get("DVC_STAGE", name)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        label = HydraConfig.get().job.override_dirname or label
    metrics = _or_exit(name, lambda: _tracked(name, function, cfg, out, _pipeline_key(), label))
    return _flatten(metrics).get(objective) if objective else None


def _process_rank() -> int:
    """The place of this process among those of a training, as its launcher tells it."""
    return int(os.environ.get("RANK") or os.environ.get("LOCAL_RANK") or 0)


def _tracked(
    name: str, function: StageFunction, cfg: DictConfig, out: Path, pipeline: str, label: str
) -> dict[str, Any]:
    """Run the stage inside its MLflow run, write metrics.json, and publish all of its output."""
    record("stage begins", stage=name, out=out)
    with until_done(), _mlflow_run(name, cfg, pipeline, label) as mlflow:
        meter = Meter()
        with published(out) as partial:
            metrics = dict(function(cfg, partial))
            metrics["cost"] = meter.spent()
            text = json.dumps(metrics, indent=2, allow_nan=False)
            (partial / "metrics.json").write_text(text + "\n")
        record("stage ends", stage=name, out=out, metrics=metrics)
        numbers = {k: v for k, v in _flatten(metrics).items() if isinstance(v, int | float)}
        mlflow.log_metrics({_metric_key(k): float(v) for k, v in numbers.items()})
    return metrics


def log_comparison(base: str, found: Mapping[str, Sequence[Any]]) -> None:
    """Log `compare.Difference`s from the run `base` to MLflow, a run of its own for each."""
    mlflow = tracked()
    mlflow.set_experiment(EXPERIMENT)
    for run, differences in found.items():
        with mlflow.start_run(run_name=f"{run} against {base}"):
            mlflow.set_tags({f"{d.pair_set}.{d.measure}": d.verdict for d in differences})
            mlflow.log_params({"base": base, "run": run})
            mlflow.log_metrics(
                {
                    f"{d.pair_set}.{d.measure}.{name}": value
                    for d in differences
                    for name, value in (
                        ("difference", d.other - d.base),
                        ("low", d.low),
                        ("high", d.high),
                    )
                }
            )


@contextmanager
def _mlflow_run(name: str, cfg: DictConfig, pipeline: str, label: str) -> Iterator[Any]:
    mlflow = tracked()
    lock = project_folder() / LOCK
    lock.parent.mkdir(exist_ok=True)
    # jobs of a parallel sweep race to make the database and the parent
    with FileLock(lock), chdir(project_folder()):
        experiment = mlflow.set_experiment(EXPERIMENT).experiment_id
        parent = _parent_run(mlflow.MlflowClient(), experiment, pipeline)
    with mlflow.start_run(experiment_id=experiment, run_name=label, parent_run_id=parent):
        mlflow.set_tags({"stage": name, "commit": _commit()})
        mlflow.log_params(_flatten(plain(cfg)))
        yield mlflow


def _parent_run(client: Any, experiment: str, key: str) -> str:
    """The run id of the pipeline `key`, made now where there is none."""
    found = client.search_runs([experiment], f"tags.`{PIPELINE_TAG}` = '{key}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    run = client.create_run(experiment, run_name=key, tags={PIPELINE_TAG: key})
    client.set_terminated(run.info.run_id)
    return str(run.info.run_id)


def _pipeline_key() -> str:
    """One row for each pipeline: the sweep, the DVC experiment, or this code with these values."""
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return f"sweep {Path(HydraConfig.get().sweep.dir).as_posix()}"
    if os.environ.get("DVC_EXP_NAME"):
        return os.environ["DVC_EXP_NAME"]
    values = hashlib.sha256(Path("params.yaml").read_bytes())
    for path in sorted(Path("conf").rglob("*.yaml")):
        values.update(path.read_bytes())
    return f"{_commit()}-{values.hexdigest()[:7]}"


def _commit() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "no-commit"


def _or_exit(name: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except FoundryError as error:
        line = str(error)
    except Exception as error:
        if not is_disk_full(error):
            raise
        line = f"the disk is full ({error}); free some and run it again: it goes on from here"
    record("stage fails", stage=name, reason=line)
    sys.exit(f"{name}: {line}")


def _flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}; lists are left out of it."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            flat.update(_flatten(value, f"{prefix}{key}."))
        elif not isinstance(value, list | tuple):
            flat[f"{prefix}{key}"] = value
    return flat


def _metric_key(key: str) -> str:
    """MLflow allows letters, digits and _-./ and space."""
    return "".join(c if c.isalnum() or c in "_-./ " else "_" for c in key)
