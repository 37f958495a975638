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
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from facefoundry.errors import FoundryError
from facefoundry.model_dir import ModelSpec
from facefoundry.onnx_file import (
    INPUT,
    METADATA_KEY,
    OPSET,
    OUTPUT,
    Crops,
    Floats,
    batches,
    embed,
    load_onnx,
    open_session,
    read_metadata,
    to_input,
)
from facefoundry.onnx_fold import fold_dense_batchnorm, inline_identities

__all__ = [
    "BOUNDARY_NODES",
    "INPUT",
    "METADATA_KEY",
    "OPSET",
    "OUTPUT",
    "Contract",
    "Crops",
    "Floats",
    "check_parity",
    "cosines",
    "embed",
    "embed_torch",
    "export_onnx",
    "load_onnx",
    "open_session",
    "read_metadata",
    "summary",
    "to_input",
]

# The float nodes around the backbone, which quantization leaves alone.
BOUNDARY_NODES = ("Sub_mean", "Mul_scale", "ReduceL2_norm", "Div_norm")


class Contract(nn.Module):
    """The backbone with the contract's pixel normalisation and unit length around it."""

    def __init__(self, backbone: nn.Module, spec: ModelSpec) -> None:
        super().__init__()
        self.backbone, self.mean, self.scale = backbone, spec.mean, 1.0 / spec.std

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.normalize(self.backbone((images - self.mean) * self.scale))


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


def embed_torch(backbone: nn.Module, crops: Crops, batch: int = 32) -> Floats:
    """What `embed` gives, computed by PyTorch from the backbone itself (in eval mode)."""
    backbone.eval()
    with torch.inference_mode():
        parts = [
            nn.functional.normalize(backbone((torch.from_numpy(part) - 127.5) / 127.5)).numpy()
            for part in batches(to_input(crops), batch)
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
