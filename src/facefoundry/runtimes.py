"""Every form of a model behind one function, so that they can be compared in one run."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from facefoundry.benchmarks import Embed, Images
from facefoundry.errors import FoundryError
from facefoundry.export import Floats, open_session, to_input
from facefoundry.model_dir import load_model
from facefoundry.openvino_cpu import compile_model

# (N, 3, 112, 112) float32 RGB 0..255 -> (N, D), of unit length where the file is of the contract
Runner = Callable[[Floats], Floats]

LITERT_HINT = "pip install 'facefoundry[mobile]'"
EXECUTORCH_HINT = "pip install 'facefoundry[executorch]'"


def open_runner(path: Path, threads: int = 1) -> Runner:
    """Open a model by what it is: a model directory in PyTorch, `.onnx` in onnxruntime, `.xml` in
    OpenVINO, `.tflite` in LiteRT, `.pte` in ExecuTorch.

    PyTorch's and ExecuTorch's threads are the process's; the others take `threads`.
    Raises FoundryError for any other suffix, a file that does not load, or a missing runtime.
    """
    if path.is_dir():
        return torch_runner(load_model(path)[0])
    openers = {
        ".onnx": onnx_runner,
        ".xml": openvino_runner,
        ".tflite": litert_runner,
        ".pte": executorch_runner,
    }
    if path.suffix not in openers:
        raise FoundryError(
            f"{path}: no runtime for it; give a model directory or one of {', '.join(openers)}"
        )
    return openers[path.suffix](path, threads)


def torch_runner(backbone: nn.Module) -> Runner:
    backbone.eval()

    def run(images: Floats) -> Floats:
        with torch.inference_mode():
            raw = backbone((torch.from_numpy(images) - 127.5) / 127.5)
            return nn.functional.normalize(raw).numpy()

    return run


def onnx_runner(path: Path, threads: int = 1) -> Runner:
    session = open_session(path, threads)
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def openvino_runner(path: Path, threads: int = 1) -> Runner:
    compiled = compile_model(path, threads)
    return lambda images: np.array(compiled(images)[0], np.float32)


def litert_runner(path: Path, threads: int = 1) -> Runner:
    """LiteRT with XNNPACK. The file takes one image at a time, as a phone does."""
    try:
        module: Any = importlib.import_module("ai_edge_litert.interpreter")
    except ImportError as error:
        raise FoundryError(f"{path}: needs LiteRT to run; {LITERT_HINT}") from error
    try:
        interpreter = module.Interpreter(str(path), num_threads=threads)
        interpreter.allocate_tensors()
    except ValueError as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise FoundryError(f"{path}: LiteRT refuses it ({reason}); export it again") from error
    source = interpreter.get_input_details()[0]["index"]
    target = interpreter.get_output_details()[0]["index"]

    def run(images: Floats) -> Floats:
        rows = []
        for image in images:
            interpreter.set_tensor(source, image[None])
            interpreter.invoke()
            rows.append(interpreter.get_tensor(target)[0])
        return np.stack(rows)

    return run


def executorch_runner(path: Path, threads: int = 1) -> Runner:
    """ExecuTorch with XNNPACK, in as many threads as the process's last runner asked for. The file
    takes one image at a time."""
    try:
        runtime: Any = importlib.import_module("executorch.runtime")
        bindings: Any = importlib.import_module("executorch.extension.pybindings.portable_lib")
    except ImportError as error:
        raise FoundryError(f"{path}: needs ExecuTorch to run; {EXECUTORCH_HINT}") from error
    bindings._unsafe_reset_threadpool(threads)
    try:
        method = runtime.Runtime.get().load_program(path).load_method("forward")
    except RuntimeError as error:
        raise FoundryError(f"{path}: ExecuTorch refuses it ({error}); export it again") from error

    def run(images: Floats) -> Floats:
        rows = [method.execute([torch.from_numpy(image[None])])[0] for image in images]
        return torch.cat(rows).numpy()

    return run


def runner_embedder(runner: Runner) -> Embed:
    """The same model on (N, 112, 112, 3) uint8 RGB crops."""

    def embed(images: Images) -> Floats:
        return runner(to_input(images))

    return embed
