"""FP16 as types in the ONNX file, which is how TensorRT 10 and 11 are told of a precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from facefoundry.export import BOUNDARY_NODES, load_onnx


def write_fp16(fp32_path: Path, path: Path) -> None:
    """Write the FP16 form of an FP32 file of the contract.

    The backbone's weights and activations become float16; input, output, pixel normalisation and
    L2 norm stay float32, since 0..255 and a sum of squares are what half precision is worst at.
    Raises FoundryError where `fp32_path` is not a file of the contract.
    """
    model = load_onnx(fp32_path)
    graph = model.graph
    boundary = [node for node in graph.node if node.name in BOUNDARY_NODES]
    inside = [node for node in graph.node if node.name not in BOUNDARY_NODES]
    kept = {name for node in boundary for name in node.input}
    for value in graph.initializer:
        if value.name not in kept:
            _halve(value)
    for attribute in (a for node in inside for a in node.attribute if a.name == "value"):
        _halve(attribute.t)
    to_half = helper.make_node(
        "Cast", ["normalized"], ["normalized_half"], "Cast_half", to=TensorProto.FLOAT16
    )
    to_float = helper.make_node("Cast", ["raw_half"], ["raw"], "Cast_float", to=TensorProto.FLOAT)
    for node in inside:
        node.input[:] = ["normalized_half" if n == "normalized" else n for n in node.input]
        node.output[:] = ["raw_half" if n == "raw" else n for n in node.output]
    graph.ClearField("node")
    graph.node.extend([*boundary[:2], to_half, *inside, to_float, *boundary[2:]])
    onnx.checker.check_model(model, full_check=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)


def _halve(value: onnx.TensorProto) -> None:
    if value.data_type == TensorProto.FLOAT:
        half = numpy_helper.to_array(value).astype(np.float16)
        value.CopyFrom(numpy_helper.from_array(half, value.name))
