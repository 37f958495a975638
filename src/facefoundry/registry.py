"""A model in MLflow's registry, as a pyfunc that `mlflow models serve` can load."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

import numpy as np

from facefoundry.errors import FoundryError
from facefoundry.inference import WEIGHTS, find_model
from facefoundry.onnx_file import read_metadata
from facefoundry.tracking import tracked

NAME, ALIAS = "facefoundry", "champion"
NEEDS = (
    *("cryptography", "faiss-cpu", "numpy", "onnx", "onnxruntime", "opencv-python-headless"),
    *("pillow", "rich", "threadpoolctl"),
)


def register(source: str, name: str = NAME, alias: str = ALIAS) -> int:
    """Log the ONNX model as code and file, and give its new version the alias; the version.

    Raises FoundryError for a model that is not exported.
    """
    mlflow = tracked()
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    path = find_model(source)
    if path.name == WEIGHTS:
        raise FoundryError(f"{path}: not exported; run the quantize stage and give its directory")
    size = read_metadata(path)["embedding_size"]
    crops = TensorSpec(np.dtype(np.uint8), (-1, 112, 112, 3))
    embeddings = TensorSpec(np.dtype(np.float32), (-1, size))
    with mlflow.start_run(run_name=f"register {name}"):
        info = mlflow.pyfunc.log_model(
            name="embedder",
            python_model=str(Path(__file__).with_name("mlflow_embedder.py")),
            artifacts={"model": str(path)},
            code_paths=[str(Path(__file__).parent)],
            signature=ModelSignature(Schema([crops]), Schema([embeddings])),
            pip_requirements=[f"{need}=={version(need)}" for need in NEEDS],
            registered_model_name=name,
        )
    number = int(info.registered_model_version)
    mlflow.MlflowClient().set_registered_model_alias(name, alias, str(number))
    return number
