"""PyTorch backbone -> one ONNX file that every runtime takes as it is.

The contract: input `input` [N, 3, 112, 112] float32 RGB 0..255, output `embedding` [N, D] of unit
length, preprocessing inside the graph, any batch size, opset 13, batch norm folded away.
Why each of these:

- InsightFace sees that a graph normalises for itself by node names that *start* with `Sub` and
  `Mul`; with other names it normalises a second time, silently.
- OpenCV before 5 cannot load `LpNormalization`, so the unit length is `ReduceL2` and `Div`.
- Opset 13 is the first with per-channel QuantizeLinear, and the last that TensorRT 8.0 reads.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from facefoundry.errors import FoundryError
from facefoundry.model_dir import ModelSpec
from facefoundry.onnx_fold import fold_dense_batchnorm, inline_identities

OPSET = 13
INPUT = "input"
OUTPUT = "embedding"
METADATA_KEY = "facefoundry"
# The float nodes around the backbone, which quantization leaves alone.
BOUNDARY_NODES = ("Sub_mean", "Mul_scale", "ReduceL2_norm", "Div_norm")

Crops = NDArray[np.uint8]
Floats = NDArray[np.float32]


def export_onnx(backbone: nn.Module, spec: ModelSpec, path: Path) -> None:
    """Write the contract's FP32 ONNX file of a backbone ((B, 3, 112, 112) in [-1, 1] -> (B, D)).

    The spec (architecture, provenance, thresholds, licences) goes into `metadata_props`, whole as
    JSON under `facefoundry`. The backbone is left as it was. The same weights give the same bytes.
    Raises FoundryError for a backbone that asks for the shape of a tensor.
    """
    model = _trace(backbone, spec.input_size)
    if any(node.op_type == "Shape" for node in model.graph.node):
        raise FoundryError(
            f"{spec.architecture}: reshapes by x.size() or x.shape, which OpenCV cannot load with a"
            " free batch size; use torch.flatten(x, 1)"
        )
    inline_identities(model.graph)
    fold_dense_batchnorm(model.graph)
    _add_boundaries(model.graph, spec)
    _add_metadata(model, spec)
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def _trace(backbone: nn.Module, size: int) -> onnx.ModelProto:
    """The bare backbone from `normalized` to `raw`, batch norm folded into convolutions.

    PyTorch's TorchScript exporter, on purpose: it emits opset 13 itself, while the newer one emits
    18 and up and converts down.
    """
    buffer, training = BytesIO(), backbone.training
    example = torch.zeros(1, 3, size, size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            backbone.eval(),
            (example,),
            buffer,  # type: ignore[arg-type]
            dynamo=False,
            opset_version=OPSET,
            input_names=["normalized"],
            output_names=["raw"],
            dynamic_axes={"normalized": {0: "N"}, "raw": {0: "N"}},
        )
    backbone.train(training)
    return onnx.load_from_string(buffer.getvalue())


def _add_boundaries(graph: onnx.GraphProto, spec: ModelSpec) -> None:
    """Put (x - mean) / std before the backbone and the division by the L2 norm after it."""
    size = spec.input_size
    for name, value in (("mean", spec.mean), ("scale", 1.0 / spec.std)):
        graph.initializer.append(numpy_helper.from_array(np.array([value], np.float32), name))
    before = [
        helper.make_node("Sub", [INPUT, "mean"], ["centred"], "Sub_mean"),
        helper.make_node("Mul", ["centred", "scale"], ["normalized"], "Mul_scale"),
    ]
    after = [
        helper.make_node("ReduceL2", ["raw"], ["norm"], "ReduceL2_norm", axes=[1], keepdims=1),
        helper.make_node("Div", ["raw", "norm"], [OUTPUT], "Div_norm"),
    ]
    nodes = [*before, *graph.node, *after]
    for field in ("node", "input", "output", "value_info"):
        graph.ClearField(field)
    graph.node.extend(nodes)
    graph.input.append(_batch_of(INPUT, 3, size, size))
    graph.output.append(_batch_of(OUTPUT, spec.embedding_size))
    graph.name = "facefoundry"


def _batch_of(name: str, *shape: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])


def _add_metadata(model: onnx.ModelProto, spec: ModelSpec) -> None:
    values = asdict(spec)
    separate = ("architecture", "provenance", "licences", "thresholds")
    properties = {METADATA_KEY: values} | {key: values[key] for key in separate}
    helper.set_model_props(
        model,
        {k: v if isinstance(v, str) else json.dumps(v) for k, v in properties.items()},
    )
    model.producer_name, model.producer_version = "facefoundry", ""


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
    parts = [session.run(None, {INPUT: part})[0] for part in _batches(to_input(crops), batch)]
    return np.concatenate(parts)


def _batches(images: Floats, batch: int) -> Iterator[Floats]:
    for start in range(0, len(images), batch):
        yield images[start : start + batch]


def embed_torch(backbone: nn.Module, crops: Crops, batch: int = 32) -> Floats:
    """What `embed` gives, computed by PyTorch from the backbone itself (in eval mode)."""
    backbone.eval()
    with torch.inference_mode():
        parts = [
            nn.functional.normalize(backbone((torch.from_numpy(part) - 127.5) / 127.5)).numpy()
            for part in _batches(to_input(crops), batch)
        ]
    return np.concatenate(parts)


def cosines(left: Floats, right: Floats) -> NDArray[np.float64]:
    """Cosine (N,) of the rows of two (N, D), at double precision."""
    left64, right64 = left.astype(np.float64), right.astype(np.float64)
    norms = np.linalg.norm(left64, axis=1) * np.linalg.norm(right64, axis=1)
    return np.asarray((left64 * right64).sum(axis=1) / norms)


def summary(values: NDArray[np.float64]) -> dict[str, float]:
    return {"mean": float(values.mean()), "min": float(values.min())}


def check_parity(backbone: nn.Module, onnx_path: Path, crops: Crops) -> dict[str, float]:
    """Cosine between PyTorch and the ONNX file in onnxruntime on `crops`: `{mean, min}`."""
    return summary(cosines(embed_torch(backbone, crops), embed(open_session(onnx_path), crops)))
