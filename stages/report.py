"""One page that says how good the model is; every stage's metrics on one MLflow run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from facefoundry.params import load_params
from facefoundry.previous_run import compare_with_previous
from facefoundry.report import write_report
from facefoundry.results import read_metrics
from facefoundry.stage import log_to_pipeline, stage


@stage("report")
def main(cfg: DictConfig, out: Path) -> Mapping[str, Any]:
    metrics = read_metrics(Path())
    write_report(Path(), out, compare_with_previous(Path()))
    log_to_pipeline(metrics, load_params(), out / "index.html")
    return {"stages": len(metrics)}


if __name__ == "__main__":
    main()
