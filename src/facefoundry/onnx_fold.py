"""What PyTorch's exporter leaves to be simplified: it folds batch norm into convolutions only, and
it shares equal weights through Identity nodes, which few other readers look through."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper


def fold_dense_batchnorm(graph: onnx.GraphProto) -> None:
    """Turn each `MatMul` or `Gemm` with constant weights that only a `BatchNormalization` reads
    into one `Gemm`, in place. The sum is the same but for rounding."""
    constants = {value.name: value for value in graph.initializer}
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        dense = next((node for node in graph.node if norm.input[0] in node.output), None)
        readers = [node for node in graph.node if norm.input[0] in node.input]
        if dense is None or len(readers) > 1 or not _is_dense(dense, constants):
            continue
        weight, bias = _folded(dense, norm, constants)
        names = [f"{norm.output[0]}.weight", f"{norm.output[0]}.bias"]
        for name, value in zip(names, (weight, bias), strict=True):
            graph.initializer.append(numpy_helper.from_array(value, name))
        dense.CopyFrom(
            helper.make_node("Gemm", [dense.input[0], *names], [norm.output[0]], dense.name)
        )
        graph.node.remove(norm)
    _drop_unread(graph)


def inline_identities(graph: onnx.GraphProto) -> None:
    """Let the readers of each `Identity` of a constant read the constant, in place."""
    constants = {value.name for value in graph.initializer}
    same = {
        node.output[0]: node.input[0]
        for node in graph.node
        if node.op_type == "Identity" and node.input[0] in constants
    }
    kept = [node for node in graph.node if node.output[0] not in same]
    for node in kept:
        node.input[:] = [same.get(name, name) for name in node.input]
    graph.ClearField("node")
    graph.node.extend(kept)


def _is_dense(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto]) -> bool:
    scaled = [a for a in node.attribute if a.name in ("alpha", "beta") and a.f != 1.0]
    return (
        node.op_type in ("MatMul", "Gemm")
        and not scaled
        and all(name in constants for name in node.input[1:])
        and not any(a.name == "transA" and a.i for a in node.attribute)
    )


def _folded(
    dense: onnx.NodeProto, norm: onnx.NodeProto, constants: dict[str, onnx.TensorProto]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weight (in, out) and bias (out,) of the dense layer followed by the batch norm."""

    def value(name: str) -> NDArray[np.float64]:
        return numpy_helper.to_array(constants[name]).astype(np.float64)

    weight = value(dense.input[1])
    if any(a.name == "transB" and a.i for a in dense.attribute):
        weight = weight.T
    bias = value(dense.input[2]) if len(dense.input) > 2 else np.zeros(weight.shape[1])
    gamma, beta, mean, variance = (value(name) for name in norm.input[1:])
    epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
    gain = gamma / np.sqrt(variance + epsilon)
    return (weight * gain).astype(np.float32), ((bias - mean) * gain + beta).astype(np.float32)


def _drop_unread(graph: onnx.GraphProto) -> None:
    read = {name for node in graph.node for name in node.input}
    kept = [value for value in graph.initializer if value.name in read]
    graph.ClearField("initializer")
    graph.initializer.extend(kept)
