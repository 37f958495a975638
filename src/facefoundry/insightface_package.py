"""A directory that InsightFace 2 loads as a model package (its manifest, version 2)."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from facefoundry.onnx_file import load_onnx, read_metadata


def write_insightface_package(onnx_path: Path, directory: Path, model_id: str) -> None:
    """Write `manifest.json`, `MODEL.LICENSE` and the ONNX file of the contract (FP32 or INT8).

    `insightface.model_zoo.get_model(str(directory), model_task="recognition")` then loads it.
    Raises FoundryError where the file is not of the contract.
    """
    model = load_onnx(onnx_path)
    metadata = read_metadata(onnx_path)
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(onnx_path, directory / onnx_path.name)
    licences = [f"{row.get('name')}: {row.get('licence')}" for row in metadata["licences"]]
    text = "\n".join(["What this model rests on:", *(licences or ["not recorded"])])
    (directory / "MODEL.LICENSE").write_text(text + "\n", encoding="utf-8")
    manifest = {
        "manifest_version": 2,
        "model_id": model_id,
        "license": "MODEL.LICENSE",
        "tasks": {
            "recognition": {
                "file": onnx_path.name,
                "sha256": hashlib.sha256(onnx_path.read_bytes()).hexdigest(),
                "preprocessing": "embedded",  # the graph itself takes RGB 0..255
                "input_size": [112, 112],
                "embedding_dimension": (
                    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
                ),
            }
        },
    }
    (directory / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
