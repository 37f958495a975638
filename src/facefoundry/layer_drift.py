"""Which layer loses most when it alone is quantized."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx

from facefoundry.export import Crops, cosines, embed, load_onnx, open_session, summary

COMPUTING = ("Conv", "Gemm", "MatMul", "Add")
QDQ = ("QuantizeLinear", "DequantizeLinear")


def layer_drift(fp32_path: Path, int8_path: Path, crops: Crops) -> list[dict[str, Any]]:
    """Rows `{node, op, mean, min}`, worst first: the cosine to FP32 embeddings of the FP32 network
    in which only this node reads quantized inputs and weights.

    Takes one run over `crops` (N, 112, 112, 3) per quantized node; a few dozen crops are enough.
    """
    int8 = load_onnx(int8_path)
    reference = embed(open_session(fp32_path), crops)
    producers = {output: node for node in int8.graph.node for output in node.output}
    rows = []
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / "one.onnx"
        for node in int8.graph.node:
            sources = [producers[name].op_type for name in node.input if name in producers]
            if node.op_type not in COMPUTING or "DequantizeLinear" not in sources:
                continue
            single = load_onnx(fp32_path)
            if not _quantize_node(single, int8, node, producers):
                continue
            onnx.save(single, path)
            found = summary(cosines(reference, embed(open_session(path), crops)))
            rows.append({"node": node.name, "op": node.op_type, **found})
    return sorted(rows, key=lambda row: row["mean"])


def _quantize_node(
    model: onnx.ModelProto,
    int8: onnx.ModelProto,
    node: onnx.NodeProto,
    producers: dict[str, onnx.NodeProto],
) -> bool:
    """Let the node of the same name in the FP32 `model` read what `node` reads in `int8`, through
    copies of the Q/DQ nodes in between. False where the FP32 network has no such node."""
    target = next((n for n in model.graph.node if n.name == node.name), None)
    if target is None:
        return False
    copies: list[onnx.NodeProto] = []
    for name in node.input:
        _collect(name, producers, copies)
    constants = {value.name: value for value in int8.graph.initializer}
    present = {value.name for value in model.graph.initializer}
    for name in sorted({name for copy in copies for name in copy.input} - present):
        if name in constants:
            model.graph.initializer.append(constants[name])
    made = {name: f"{name}.quantized" for copy in copies for name in copy.output}
    copies = [_renamed(copy, made) for copy in copies]
    for index, name in enumerate(node.input):
        target.input[index] = made.get(name, target.input[index])
    before = list(model.graph.node).index(target)
    nodes = [*model.graph.node[:before], *copies, *model.graph.node[before:]]
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    return True


def _renamed(node: onnx.NodeProto, names: dict[str, str]) -> onnx.NodeProto:
    """A copy under new tensor names: a dequantized bias is called like the FP32 bias itself."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    copy.output[:] = [names.get(name, name) for name in node.output]
    return copy


def _collect(name: str, producers: dict[str, onnx.NodeProto], found: list[onnx.NodeProto]) -> None:
    """Append the chain of Q/DQ nodes that makes tensor `name`, first one first."""
    node = producers.get(name)
    if node is None or node.op_type not in QDQ or node in found:
        return
    _collect(node.input[0], producers, found)
    found.append(node)
