"""MLflow, made to keep its runs beside dvc.yaml and to load no pickles."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any


def project_folder() -> Path:
    """Here; or the project above, in the copy that `dvc exp run --temp` and `--queue` work in and
    delete."""
    here = Path.cwd()
    return next((folder.parent for folder in here.parents if folder.name == ".dvc"), here)


def tracked() -> Any:
    """MLflow, which writes to mlflow.db of the project, or where MLFLOW_TRACKING_URI says."""
    # a run id left in the environment would win over the parent asked for by a stage
    os.environ.pop("MLFLOW_RUN_ID", None)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    os.environ.setdefault("MLFLOW_TRACKING_URI", f"sqlite:///{project_folder() / 'mlflow.db'}")
    import mlflow

    return mlflow
