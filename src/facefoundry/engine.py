"""TensorRT engines: built for the GPU that is here, or ahead of time on the CPU as a proof.

Engines are portable neither between GPU models nor between TensorRT versions, so nothing built
here is what a Jetson runs: that is built on the Jetson, from `bundle`.
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from facefoundry.bundle import tensorrt_api as api
from facefoundry.devices import DeviceSpec
from facefoundry.errors import FoundryError
from facefoundry.export import cosines, embed, load_onnx, open_session, summary, to_input

BACKENDS = ("auto", "tensorrt", "tensorrt_rtx", "none")
RTX_CAPABILITIES = ("SM80", "SM86", "SM89", "SM120")  # no Jetson is among them
MAX_BATCH = 16


def build_engine(
    onnx_path: Path,
    out_dir: Path,
    device: DeviceSpec,
    backend: str = "auto",
    max_batch: int = MAX_BATCH,
) -> dict[str, Any]:
    """Build the ONNX file, in the precision of its own types, and say plainly what was done.

    `auto` takes `tensorrt` where the module and a GPU are here, else `tensorrt_rtx` (ahead of time,
    on the CPU), else `none`. Returns `{backend, built, onnx, precision, engine, engine_bytes,
    build_seconds, compute_capabilities, cosine_to_onnxruntime, layer_types, latency, statement,
    not_run}`.
    Raises FoundryError where the parser or the builder refuses the file, naming the node, or where
    a backend that was asked for is not here.
    """
    precision = precision_of(load_onnx(onnx_path))
    chosen = choose_backend(backend)
    metrics: dict[str, Any] = {
        "backend": chosen,
        "built": chosen != "none",
        "onnx": onnx_path.name,
        "precision": precision,
        "engine": None,
        "engine_bytes": None,
        "build_seconds": None,
        "compute_capabilities": [],
        "cosine_to_onnxruntime": {},
        "layer_types": {},
        "latency": {},
    }
    if chosen != "none":
        engine_path = out_dir / f"{onnx_path.stem}.{chosen}.engine"
        out_dir.mkdir(parents=True, exist_ok=True)
        try:
            build = _build_tensorrt if chosen == "tensorrt" else _build_rtx
            metrics |= build(onnx_path, engine_path, precision, max_batch)
        except api.BundleError as error:
            raise FoundryError(str(error)) from error
    return metrics | _plainly(chosen, precision, device)


def precision_of(model: onnx.ModelProto) -> str:
    """`int8` for a file with Q/DQ nodes, `fp16` for one with half-precision weights, or `fp32`."""
    if any(node.op_type == "QuantizeLinear" for node in model.graph.node):
        return "int8"
    if any(value.data_type == TensorProto.FLOAT16 for value in model.graph.initializer):
        return "fp16"
    return "fp32"


def choose_backend(backend: str) -> str:
    """Resolve `auto`. Raises FoundryError for an unknown backend, or one that is not here."""
    if backend not in BACKENDS:
        raise FoundryError(f"backend: unknown {backend!r}; choose one of {', '.join(BACKENDS)}")
    here = {
        "tensorrt": _module("tensorrt") is not None and has_gpu(),
        "tensorrt_rtx": _module("tensorrt_rtx") is not None,
        "none": True,
    }
    if backend == "auto":
        return next(name for name, found in here.items() if found)
    if not here[backend]:
        needs = {
            "tensorrt": "the tensorrt module and an NVIDIA GPU; use backend=auto elsewhere",
            "tensorrt_rtx": "`pip install 'facefoundry[tensorrt-rtx]'`",
        }
        raise FoundryError(f"backend={backend}: not here; it needs {needs[backend]}")
    return backend


def has_gpu() -> bool:
    """Does the CUDA driver see a device?"""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    count = ctypes.c_int()
    found = driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
    return found and count.value > 0


def _module(name: str) -> ModuleType | None:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError):  # OSError: the wheel is here but its libraries are not
        return None


def _build_tensorrt(
    onnx_path: Path, engine_path: Path, precision: str, max_batch: int
) -> dict[str, Any]:
    trt: Any = importlib.import_module("tensorrt")
    start = time.perf_counter()
    plan = api.build_plan(trt, onnx_path, precision, max_batch)
    seconds = time.perf_counter() - start
    engine_path.write_bytes(plan)
    engine = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(plan)
    noise = np.random.default_rng(0).integers(0, 256, (4, 112, 112, 3), dtype=np.uint8)
    expected = embed(open_session(onnx_path), noise)
    run = api.make_runner(engine, api.Cuda(), expected.shape[1], max_batch)
    found = np.concatenate([run(image[None]) for image in to_input(noise)])
    return {
        "cosine_to_onnxruntime": summary(cosines(found, expected)),
        "engine": engine_path.name,
        "engine_bytes": len(plan),
        "build_seconds": round(seconds, 3),
        "compute_capabilities": ["CURRENT"],
        "layer_types": api.layer_types(trt, engine),
        "latency": {f"batch_{batch}": api.measure(run, batch, 200) for batch in (1, max_batch)},
    }


def _build_rtx(
    onnx_path: Path, engine_path: Path, precision: str, max_batch: int
) -> dict[str, Any]:
    """Ahead of time for desktop GPUs: the types in the file decide, `precision` does not."""
    rtx: Any = importlib.import_module("tensorrt_rtx")
    logger = _rtx_logger()
    start = time.perf_counter()
    builder = rtx.Builder(logger)
    network = builder.create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    api.parse(rtx, network, logger, onnx_path)
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("input", *[(batch, 3, 112, 112) for batch in (1, 1, max_batch)])
    config.add_optimization_profile(profile)
    config.num_compute_capabilities = len(RTX_CAPABILITIES)
    for index, name in enumerate(RTX_CAPABILITIES):
        config.set_compute_capability(getattr(rtx.ComputeCapability, name), index)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        reasons = " ".join(logger.errors[-1:]) or "no reason given"
        raise FoundryError(f"{onnx_path}: tensorrt_rtx could not build it ({reasons})")
    engine_path.write_bytes(memoryview(plan))
    return {
        "engine": engine_path.name,
        "engine_bytes": plan.nbytes,
        "build_seconds": round(time.perf_counter() - start, 3),
        "compute_capabilities": list(RTX_CAPABILITIES),
    }


@functools.cache
def _rtx_logger() -> Any:
    """One for the whole process: the library keeps the first that it is given. It is silent, since
    a machine without a GPU makes it complain about the driver; errors are kept."""
    rtx: Any = importlib.import_module("tensorrt_rtx")

    class Logger(rtx.ILogger):
        def __init__(self) -> None:
            rtx.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (rtx.ILogger.ERROR, rtx.ILogger.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    return Logger()


def _plainly(backend: str, precision: str, device: DeviceSpec) -> dict[str, Any]:
    board = f"{device.name} (SM{device.sm}, TensorRT {device.tensorrt})"
    not_run = [f"building, running and timing on {board}: run bundle/build.py there"]
    if backend == "tensorrt":
        statement = (
            f"Built, compared and timed by TensorRT on the GPU of this machine in {precision}."
        )
    elif backend == "tensorrt_rtx":
        statement = (
            f"Built ahead of time on the CPU by TensorRT-RTX in {precision}, for desktop GPUs:"
            " proof that NVIDIA's parser and builder take the graph. Nothing ran on a GPU."
        )
        not_run.insert(0, f"the {precision} engine itself: there is no GPU with TensorRT here")
    else:
        statement = "No engine was built: neither TensorRT with a GPU nor TensorRT-RTX is here."
        not_run.insert(0, "NVIDIA's parser and builder: `pip install 'facefoundry[tensorrt-rtx]'`")
    return {"statement": statement, "not_run": not_run}
