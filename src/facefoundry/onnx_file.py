"""An exported model without PyTorch: read the file, open it in onnxruntime, embed crops.

The contract of the file is `export`'s: input `input` [N, 3, 112, 112] float32 RGB 0..255, output
`embedding` [N, D] of unit length, the model spec in `metadata_props`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from facefoundry.errors import FoundryError

OPSET = 13
INPUT = "input"
OUTPUT = "embedding"
METADATA_KEY = "facefoundry"

Crops = NDArray[np.uint8]
Floats = NDArray[np.float32]


def read_metadata(path: Path) -> dict[str, Any]:
    """The model spec inside an ONNX file of ours. Raises FoundryError for any other file."""
    model = load_onnx(path)
    for prop in model.metadata_props:
        if prop.key == METADATA_KEY:
            values: dict[str, Any] = json.loads(prop.value)
            return values
    raise FoundryError(f"{path}: not exported by facefoundry (no metadata); export the model again")


def load_onnx(path: Path) -> onnx.ModelProto:
    """Parse an ONNX file and check it against the contract's opset, input and output.

    Raises FoundryError, one line with the file, what differs, and the fix.
    """
    try:
        model = onnx.load(path)
        onnx.checker.check_model(model)
    except OSError as error:
        raise FoundryError(f"{path}: cannot be read ({error.strerror})") from error
    except Exception as error:  # protobuf and the checker raise kinds of their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FoundryError(
            f"{path}: not an ONNX file ({reason}); export the model again"
        ) from error
    opset = next((entry.version for entry in model.opset_import if not entry.domain), 0)
    if not OPSET <= opset <= 17:
        raise FoundryError(f"{path}: opset {opset}, not within {OPSET} to 17; export it again")
    inputs = [_signature(value) for value in model.graph.input]
    if inputs != [(INPUT, [None, 3, 112, 112])]:
        raise FoundryError(
            f"{path}: inputs {inputs} are not {INPUT!r} [N, 3, 112, 112]; export the model again"
        )
    outputs = [_signature(value) for value in model.graph.output]
    if len(outputs) != 1 or outputs[0][0] != OUTPUT or len(outputs[0][1]) != 2:
        raise FoundryError(f"{path}: outputs {outputs} are not {OUTPUT!r} [N, D]; export it again")
    return model


def _signature(value: onnx.ValueInfoProto) -> tuple[str, list[int | None]]:
    """(name, shape) with None for a dimension that is free."""
    dims = value.type.tensor_type.shape.dim
    return value.name, [dim.dim_value if dim.HasField("dim_value") else None for dim in dims]


def to_input(crops: Crops) -> Floats:
    """(N, 112, 112, 3) uint8 RGB -> the ONNX input, (N, 3, 112, 112) float32 RGB 0..255.

    Raises FoundryError unless there is at least one crop of that shape and type.
    """
    if crops.ndim != 4 or crops.shape[1:] != (112, 112, 3) or crops.dtype != np.uint8:
        raise FoundryError(
            f"crops are {crops.shape} {crops.dtype}, not (N, 112, 112, 3) uint8 RGB;"
            " align the faces first"
        )
    if not len(crops):
        raise FoundryError("no crops: give at least one aligned 112x112 face")
    return np.ascontiguousarray(crops.transpose(0, 3, 1, 2), dtype=np.float32)


def open_session(path: Path, threads: int = 1) -> ort.InferenceSession:
    """An onnxruntime session on the CPU. Raises FoundryError where the file does not load."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises one C++ exception class per status code
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise FoundryError(f"{path}: onnxruntime refuses it ({reason}); export it again") from error


def embed(session: ort.InferenceSession, crops: Crops, batch: int = 32) -> Floats:
    """Embeddings (N, D) of unit length of (N, 112, 112, 3) uint8 RGB."""
    parts = [session.run(None, {INPUT: part})[0] for part in batches(to_input(crops), batch)]
    return np.concatenate(parts)


def batches(images: Floats, batch: int) -> Iterator[Floats]:
    for start in range(0, len(images), batch):
        yield images[start : start + batch]
