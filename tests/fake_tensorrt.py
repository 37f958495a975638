"""TensorRT's Python surface as its documentation records it for 8.2, 8.5, 10.3 and 11.4, with
onnxruntime as the device. What a version does not have, the fake does not have either: code that
calls it fails as it would on the board.

A plan is the ONNX file itself behind a header with the settings it was built with.
"""

from __future__ import annotations

import ctypes
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort

HEADER = 1000


class FakeCuda:
    """Memory as host buffers, by address."""

    def __init__(self) -> None:
        self.buffers: dict[int, Any] = {}

    def allocate(self, size: int) -> int:
        buffer = ctypes.create_string_buffer(size)
        self.buffers[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def upload(self, pointer: int, array: np.ndarray) -> None:
        ctypes.memmove(pointer, array.ctypes.data, array.nbytes)

    def download(self, array: np.ndarray, pointer: int) -> None:
        ctypes.memmove(array.ctypes.data, pointer, array.nbytes)

    def synchronize(self) -> None:
        pass


def fake_tensorrt(version: str, refuse: str = "", spoil: bool = False) -> Any:
    """The module `tensorrt` of `version`. The parser refuses with `refuse`, if given; with `spoil`
    the engine computes nonsense, as a broken build would."""
    number = tuple(int(part) for part in version.split(".")[:2])
    trt = SimpleNamespace(__version__=version, built=[])
    trt.Logger = type("Logger", (), {"WARNING": 2, "__init__": lambda self, level: None})
    trt.NetworkDefinitionCreationFlag = SimpleNamespace(
        **({"EXPLICIT_BATCH": 0} if number < (11, 0) else {}),
        **({"STRONGLY_TYPED": 1} if number >= (10, 0) else {}),
    )
    trt.DeviceType = SimpleNamespace(GPU=0, DLA=1)
    names = ["GPU_FALLBACK", *(["FP16", "INT8"] if number < (11, 0) else [])]
    trt.BuilderFlag = SimpleNamespace(**{name: name for name in names})
    if number >= (8, 2):
        trt.ProfilingVerbosity = SimpleNamespace(DETAILED=2)
        trt.LayerInformationFormat = SimpleNamespace(JSON=1)
    if number >= (8, 4):
        trt.MemoryPoolType = SimpleNamespace(WORKSPACE=0)
    if number < (11, 0):
        trt.IInt8EntropyCalibrator2 = type("IInt8EntropyCalibrator2", (), {})
    trt.Builder = lambda logger: _Builder(trt, number)
    trt.OnnxParser = lambda network, logger: _Parser(network, number, refuse)
    trt.Runtime = lambda logger: SimpleNamespace(
        deserialize_cuda_engine=lambda plan: _engine(plan, number, spoil)
    )
    return trt


class _Parser:
    def __init__(self, network: SimpleNamespace, number: tuple[int, ...], refuse: str) -> None:
        self.network, self.number, self.refuse = network, number, refuse
        self.num_errors = 1 if refuse else 0

    def parse(self, data: bytes) -> bool:
        self.network.data = data
        return not self.refuse

    def get_error(self, index: int) -> Any:
        error = SimpleNamespace(node=lambda: 7, desc=lambda: f"{self.refuse}\nsecond line")
        if self.number >= (10, 0):
            error.node_name = lambda: "Conv_7"
            error.node_operator = lambda: "Conv"
        return error


class _Builder:
    def __init__(self, trt: Any, number: tuple[int, ...]) -> None:
        self.trt, self.number = trt, number

    def create_network(self, flags: int) -> SimpleNamespace:
        return SimpleNamespace(flags=flags, data=b"")

    def create_builder_config(self) -> _Config:
        return _Config(self.number)

    def create_optimization_profile(self) -> Any:
        profile = SimpleNamespace()
        profile.set_shape = lambda name, *shapes: setattr(profile, name, shapes)
        return profile

    def build_serialized_network(self, network: Any, config: _Config) -> bytes:
        settings = {
            "network_flags": network.flags,
            "flags": config.flags,
            "batches": [shape[0] for shape in config.profile.input],
            "dla": getattr(config, "default_device_type", 0) == 1,
            "calibrated": _calibrate(config),
        }
        self.trt.built.append(settings)
        return json.dumps(settings).encode().ljust(HEADER) + network.data


def _calibrate(config: _Config) -> int:
    """Ask for batches until there are none, as TensorRT does, unless there is a cache."""
    calibrator = getattr(config, "int8_calibrator", None)
    if calibrator is None or calibrator.read_calibration_cache() is not None:
        return 0
    count = 0
    while calibrator.get_batch(["input"]) is not None:
        count += calibrator.get_batch_size()
    calibrator.write_calibration_cache(b"ranges")
    return count


class _Config:
    def __init__(self, number: tuple[int, ...]) -> None:
        self.flags: list[str] = []
        if number >= (8, 4):
            self.set_memory_pool_limit = lambda pool, size: None

    def add_optimization_profile(self, profile: Any) -> None:
        self.profile = profile

    def set_calibration_profile(self, profile: Any) -> None:
        assert profile is self.profile

    def set_flag(self, flag: str) -> None:
        self.flags.append(flag)

    def create_timing_cache(self, data: bytes) -> Any:
        return SimpleNamespace(serialize=lambda: data + b"timings")

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> None:
        pass


def _engine(plan: bytes, number: tuple[int, ...], spoil: bool) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(plan[HEADER:], options, providers=["CPUExecutionProvider"])
    context = (_NamedContext if number >= (8, 5) else _BindingContext)(session, spoil)
    engine = SimpleNamespace(create_execution_context=lambda: context)
    if number >= (8, 2):
        key = "Format/Datatype" if number < (11, 0) else "DataType"
        layers = {"Layers": ["a name alone", {"Outputs": [{key: "Int8"}]}, {"Outputs": []}]}
        inspector = SimpleNamespace(get_engine_information=lambda kind: json.dumps(layers))
        engine.create_engine_inspector = lambda: inspector
    return engine


class _Context:
    def __init__(self, session: Any, spoil: bool) -> None:
        self.session, self.spoil = session, spoil
        self.shape: tuple[int, ...] = ()

    def compute(self, source: int, target: int) -> bool:
        images = np.empty(self.shape, np.float32)
        ctypes.memmove(images.ctypes.data, source, images.nbytes)
        result = self.session.run(None, {"input": images})[0]
        result = np.roll(result, 1, axis=1) if self.spoil else result
        ctypes.memmove(target, result.ctypes.data, result.nbytes)
        return True


class _BindingContext(_Context):
    """Before 8.5: bindings have numbers."""

    def set_binding_shape(self, index: int, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def execute_v2(self, bindings: list[int]) -> bool:
        return self.compute(*bindings)


class _NamedContext(_Context):
    """8.5 and later: tensors have names."""

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> None:
        self.shape = shape

    def set_tensor_address(self, name: str, pointer: int) -> None:
        setattr(self, name, pointer)

    def execute_async_v3(self, stream: int) -> bool:
        return self.compute(self.input, self.embedding)
