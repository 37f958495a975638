"""The code of the model in MLflow's registry: it is logged as this file, never pickled."""

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from facefoundry.benchmarks import unit_embeddings
from facefoundry.inference import open_model


class Embedder(PythonModel):
    """(N, 112, 112, 3) uint8 RGB, aligned -> (N, D) of unit length, the mirror image added."""

    def load_context(self, context: PythonModelContext) -> None:
        self._model = open_model(Path(context.artifacts["model"]))

    # without types: MLflow takes a hint for a schema, and the model has one
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        crops = np.asarray(model_input, np.uint8)
        return unit_embeddings(self._model.embed, crops, True, "model input")


mlflow.models.set_model(Embedder())
