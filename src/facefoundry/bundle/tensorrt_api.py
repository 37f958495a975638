"""TensorRT 8, 10 and 11 and the CUDA runtime, as far as this model needs them.

Part of the package, and copied beside `build.py` into every bundle. It must run on the Python 3.6
of JetPack 4.6 with numpy alone, hence its old-fashioned annotations. The `tensorrt` module is
always an argument, so that nothing here imports it.
"""
# ruff: noqa: UP006, UP032, UP035, UP045

import ctypes
import json
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import numpy as np

# What each TensorRT line needs. 8.x chooses precision by builder flags (and calibrates itself);
# 10.x deprecated and 11.x removed those, so there the types in the ONNX file decide.
LINES = {8: "flags", 10: "typed", 11: "typed"}
WORKSPACE_BYTES = 1 << 28

Embed = Callable[[np.ndarray], np.ndarray]


class BundleError(Exception):
    """One line that names the thing and the fix."""


def line_of(version: str) -> str:
    """`flags` or `typed` for a TensorRT version. Raises BundleError outside the table."""
    major = version.split(".")[0]
    if not major.isdigit() or int(major) not in LINES:
        known = ", ".join("{}.x".format(number) for number in sorted(LINES))
        raise BundleError(
            "TensorRT {}: not in the table ({}); install a JetPack that has one of these".format(
                version, known
            )
        )
    return LINES[int(major)]


def build_plan(
    trt: Any,
    onnx: Path,
    precision: str,
    max_batch: int,
    calibrator: Optional[Any] = None,
    timing_cache: Optional[Path] = None,
    dla_core: Optional[int] = None,
) -> bytes:
    """The serialized engine of one ONNX file, for this device and this TensorRT only.

    `trt` is the tensorrt module. On 8.x `precision` (fp32, fp16, int8) sets the flags, and int8
    needs a `calibrator` unless the file has Q/DQ nodes. Raises BundleError naming the node where
    the parser refuses the file.
    """
    line = line_of(trt.__version__)
    if dla_core is not None and line != "flags":
        raise BundleError("--dla: only with TensorRT 8.x, whose flags it needs; leave it out")
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt, line))
    parse(trt, network, logger, onnx)
    config = builder.create_builder_config()
    _limit_workspace(trt, config)
    batches = [1, 1, 1] if dla_core is not None else [1, 1, max_batch]
    profile = builder.create_optimization_profile()
    profile.set_shape("input", *[(batch, 3, 112, 112) for batch in batches])
    config.add_optimization_profile(profile)
    if line == "flags":
        _set_precision(trt, config, precision, calibrator, profile)
    if dla_core is not None:
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = dla_core
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    if hasattr(getattr(trt, "ProfilingVerbosity", None), "DETAILED"):  # 8.2 and up
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # types in the inspector
    cache = _load_timing_cache(config, timing_cache)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BundleError("{}: TensorRT could not build it; its log above says why".format(onnx))
    if timing_cache is not None and cache is not None:
        timing_cache.write_bytes(bytes(memoryview(cache.serialize())))
    return bytes(memoryview(plan))


def parse(trt: Any, network: Any, logger: Any, onnx: Path) -> None:
    """Fill `network` from the file. Raises BundleError with the parser's errors, by node."""
    parser = trt.OnnxParser(network, logger)
    if parser.parse(onnx.read_bytes()):
        return
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    raise BundleError("{}: refused at {}".format(onnx, "; ".join(_describe(e) for e in errors)))


def _describe(error: Any) -> str:
    """`node_name` came with 10.0; before it there is only the node's number."""
    if hasattr(error, "node_name"):
        place = "{} ({})".format(error.node_name(), error.node_operator())
    else:
        place = "node {}".format(error.node())
    lines = error.desc().splitlines()[:2]  # what follows is the library's own call stack
    return "{}: {}".format(place, " ".join(" ".join(lines).split()))


def _network_flags(trt: Any, line: str) -> int:
    """8.x must be told that the batch is explicit; later lines may not know that flag any more."""
    flags = trt.NetworkDefinitionCreationFlag
    name = "EXPLICIT_BATCH" if line == "flags" else "STRONGLY_TYPED"
    return 1 << int(getattr(flags, name)) if hasattr(flags, name) else 0


def _limit_workspace(trt: Any, config: Any) -> None:
    if hasattr(config, "set_memory_pool_limit"):  # 8.4 and up
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    else:
        config.max_workspace_size = WORKSPACE_BYTES


def _set_precision(
    trt: Any, config: Any, precision: str, calibrator: Optional[Any], profile: Any
) -> None:
    if precision in ("fp16", "int8"):  # an INT8 engine may fall back to FP16 layers
        config.set_flag(trt.BuilderFlag.FP16)
    if precision == "int8":
        config.set_flag(trt.BuilderFlag.INT8)
        if calibrator is not None:
            config.int8_calibrator = calibrator
            config.set_calibration_profile(profile)


def _load_timing_cache(config: Any, path: Optional[Path]) -> Optional[Any]:
    if path is None:
        return None
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    config.set_timing_cache(cache, False)
    return cache


def make_calibrator(trt: Any, cuda: Any, crops: np.ndarray, cache: Path) -> Any:
    """TensorRT 8's own calibration, fed with crops (N, 112, 112, 3) uint8 RGB, kept in `cache`."""

    class Calibrator(trt.IInt8EntropyCalibrator2):
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)
            self.images = iter(to_input(crops))
            self.memory = cuda.allocate(3 * 112 * 112 * 4)

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: List[str]) -> Optional[List[int]]:
            image = next(self.images, None)
            if image is None:
                return None
            cuda.upload(self.memory, image)
            return [int(self.memory)]

        def read_calibration_cache(self) -> Optional[bytes]:
            return cache.read_bytes() if cache.exists() else None

        def write_calibration_cache(self, data: Any) -> None:
            cache.write_bytes(bytes(memoryview(data)))

    return Calibrator()


def layer_types(trt: Any, engine: Any) -> Dict[str, int]:
    """How many layers of a built engine put out which type, by the engine inspector (8.2+)."""
    if not hasattr(engine, "create_engine_inspector"):
        return {}
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    counts: Dict[str, int] = {}
    for layer in json.loads(text).get("Layers", []):
        outputs = layer.get("Outputs", []) if isinstance(layer, dict) else []
        for output in outputs[:1]:
            # "Format/Datatype" up to 10.x; 11 has a key for each of the two.
            kinds = [value for key, value in output.items() if "datatype" in key.lower()]
            name = str(kinds[0]) if kinds else "unknown"
            counts[name] = counts.get(name, 0) + 1
    return counts


def to_input(crops: np.ndarray) -> np.ndarray:
    """(N, 112, 112, 3) uint8 RGB -> (N, 3, 112, 112) float32 RGB 0..255."""
    return np.ascontiguousarray(crops.transpose(0, 3, 1, 2), dtype=np.float32)


class Cuda:
    """The five calls of the CUDA runtime that an inference needs."""

    NAMES = ["libcudart.so"] + ["libcudart.so." + v for v in ("13", "12", "11.0", "10.2")]

    def __init__(self) -> None:
        for name in [*self.NAMES, "/usr/local/cuda/lib64/libcudart.so"]:
            try:
                self.library = ctypes.CDLL(name)
                return
            except OSError:
                continue
        raise BundleError("libcudart.so: not found; add CUDA's lib64 to LD_LIBRARY_PATH")

    def allocate(self, size: int) -> int:
        pointer = ctypes.c_void_p()
        self._check(self.library.cudaMalloc(ctypes.byref(pointer), ctypes.c_size_t(size)))
        return int(pointer.value or 0)

    def upload(self, pointer: int, array: np.ndarray) -> None:
        self._copy(pointer, array.ctypes.data, array.nbytes, 1)

    def download(self, array: np.ndarray, pointer: int) -> None:
        self._copy(array.ctypes.data, pointer, array.nbytes, 2)

    def synchronize(self) -> None:
        self._check(self.library.cudaDeviceSynchronize())

    def _copy(self, to: int, source: int, size: int, kind: int) -> None:
        arguments = (ctypes.c_void_p(to), ctypes.c_void_p(source), ctypes.c_size_t(size), kind)
        self._check(self.library.cudaMemcpy(*arguments))

    def _check(self, status: int) -> None:
        if status:
            raise BundleError("CUDA error {}; see `deviceQuery` for the device".format(status))


def make_runner(engine: Any, cuda: Any, size: int, max_batch: int) -> Embed:
    """A function from images (B <= max_batch, 3, 112, 112) float32 to embeddings (B, size)."""
    context = engine.create_execution_context()
    source = cuda.allocate(max_batch * 3 * 112 * 112 * 4)
    target = cuda.allocate(max_batch * size * 4)

    def run(images: np.ndarray) -> np.ndarray:
        result = np.empty((len(images), size), np.float32)
        cuda.upload(source, images)
        if hasattr(context, "execute_async_v3"):  # 8.5 and up: tensors have names
            context.set_input_shape("input", images.shape)
            context.set_tensor_address("input", source)
            context.set_tensor_address("embedding", target)
            done = context.execute_async_v3(0)
        else:
            context.set_binding_shape(0, images.shape)
            done = context.execute_v2([source, target])
        if not done:
            raise BundleError("the engine refused a batch of {}".format(len(images)))
        cuda.synchronize()
        cuda.download(result, target)
        return result

    return run


def measure(run: Embed, batch: int, rounds: int) -> Dict[str, float]:
    """Latency with the copies to and from the device, in milliseconds."""
    images = np.zeros((batch, 3, 112, 112), np.float32)
    times = []
    for number in range(20 + rounds):  # the first twenty warm up
        start = time.perf_counter()
        run(images)
        if number >= 20:
            times.append((time.perf_counter() - start) * 1000.0)
    p50, p95, p99 = np.percentile(times, [50, 95, 99])
    rate = 1000.0 * batch / p50
    return {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99, "images_per_second": rate}
