"""OpenVINO on the CPU, the one way in which this package uses it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import openvino as ov

from facefoundry.errors import FoundryError


@cache
def core() -> ov.Core:
    return ov.Core()


def compile_model(model: Path | bytes | ov.Model, threads: int) -> ov.CompiledModel:
    """An IR (`.xml` with its `.bin`), an ONNX file or its bytes, or a model built before.

    FP32 wherever it runs: some CPUs would silently choose bfloat16 and other numbers. Not pinned:
    OpenVINO binds the calling thread to the first free core, and in every process of a pool that
    is the same one. Raises FoundryError where OpenVINO refuses the model.
    """
    options = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,
    }
    try:
        read = model if isinstance(model, ov.Model) else core().read_model(model)
        return core().compile_model(read, "CPU", options)
    except RuntimeError as error:
        name = model if isinstance(model, Path) else "the model"
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise FoundryError(f"{name}: OpenVINO refuses it ({reason}); export it again") from error
