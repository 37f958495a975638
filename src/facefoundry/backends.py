"""The runtimes that can compute embeddings from one exported file, by one name."""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from facefoundry.benchmarks import Embed, Embeddings, Images
from facefoundry.errors import FoundryError
from facefoundry.onnx_file import INPUT, embed, load_onnx, open_session, to_input

MAX_BATCH = 16


def onnxruntime(path: Path, threads: int) -> Embed:
    session = open_session(path, threads)
    return lambda images: embed(session, images)


def openvino(path: Path, threads: int) -> Embed:
    from facefoundry.openvino_cpu import compile_model

    compiled = compile_model(path, threads)
    return _one_at_a_time(lambda images: np.array(compiled(to_input(images))[0], np.float32))


def opencv(path: Path, threads: int) -> Embed:
    """OpenCV's DNN module, whose threads are those of the whole process."""
    cv2.setNumThreads(threads)
    net = cv2.dnn.readNetFromONNX(str(path))

    def run(images: Images) -> Embeddings:
        net.setInput(to_input(images), INPUT)
        return np.array(net.forward(), np.float32)

    return _one_at_a_time(run)


def tensorrt(path: Path, threads: int) -> Embed:
    """An engine built now, for the GPU of this machine, in the precision of the file's types."""
    from facefoundry.bundle import tensorrt_api as api

    trt = _tensorrt_module()
    model = load_onnx(path)
    size = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    quantized = any(node.op_type == "QuantizeLinear" for node in model.graph.node)
    try:
        plan = api.build_plan(trt, path, "int8" if quantized else "fp32", MAX_BATCH)
        engine = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(plan)
        run = api.make_runner(engine, api.Cuda(), size, MAX_BATCH)
    except api.BundleError as error:
        raise FoundryError(str(error)) from error

    def batched(images: Images) -> Embeddings:
        planes = to_input(images)
        starts = range(0, len(planes), MAX_BATCH)
        return np.concatenate([run(planes[start : start + MAX_BATCH]) for start in starts])

    return _one_at_a_time(batched)


def _tensorrt_module() -> Any:
    try:
        return import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise FoundryError(
            "backend tensorrt: the tensorrt module is not here; it comes with JetPack, or choose"
            " onnxruntime"
        ) from error


def _one_at_a_time(run: Embed) -> Embed:
    """These runtimes keep their inputs in one place, so that threads have to take turns."""
    lock = threading.Lock()

    def embed_locked(images: Images) -> Embeddings:
        with lock:
            return run(images)

    return embed_locked


BACKENDS: dict[str, Callable[[Path, int], Embed]] = {
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "tensorrt": tensorrt,
    "opencv": opencv,
}


def open_backend(name: str, path: Path, threads: int = 2) -> Embed:
    """(N, 112, 112, 3) uint8 RGB -> (N, D) by the runtime `name`; callable from any thread.

    Raises FoundryError for an unknown name, a file off the contract, or a runtime not here.
    """
    if name not in BACKENDS:
        raise FoundryError(f"backend {name!r}: unknown; choose one of {', '.join(BACKENDS)}")
    load_onnx(path)
    return BACKENDS[name](path, threads)
