"""PyTorch backbone -> LiteRT (`.tflite`) for phones, in FP32 and INT8.

The contract of the ONNX file holds: RGB 0..255 in, an embedding of unit length out, and pixel
normalisation and division by the norm are float nodes inside the graph. The batch is one image.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import nn

from facefoundry.errors import FoundryError
from facefoundry.export import Contract, Crops, to_input
from facefoundry.model_dir import ModelSpec
from facefoundry.runtimes import LITERT_HINT

# What is computed in integers. The dense last layer only keeps its weights so: its output is the
# embedding, where eight bits would cost most.
INTEGER_OPS = ("CONV_2D", "DEPTHWISE_CONV_2D", "ADD")
INTEGER_WEIGHTS = "FULLY_CONNECTED"


def export_litert(backbone: nn.Module, spec: ModelSpec, path: Path) -> None:
    """Write the FP32 `.tflite` of a backbone ((B, 3, 112, 112) in [-1, 1] -> (B, D)).

    Input [1, 3, 112, 112] float32 RGB 0..255, output [1, D] of unit length. The backbone is left
    as it was. Raises FoundryError with the pip line where `litert-torch` is not installed.
    """
    litert_torch = _module("litert_torch", path)
    training = backbone.training
    example = torch.zeros(1, 3, spec.input_size, spec.input_size)
    try:
        with _quiet():
            model = litert_torch.convert(Contract(backbone, spec).eval(), (example,))
            path.parent.mkdir(parents=True, exist_ok=True)
            model.export(str(path))
    finally:
        backbone.train(training)


def quantize_litert(fp32_path: Path, int8_path: Path, calibration: Crops) -> None:
    """Write the static INT8 form of `export_litert`'s file: 8-bit weights (per channel) and
    activations. Crops (N, 112, 112, 3) uint8 RGB set the ranges of the activations.

    Raises FoundryError for crops that are none, or where the quantizer is not installed.
    """
    images = to_input(calibration)
    quantizer_module = _module("ai_edge_quantizer.quantizer", int8_path)
    interpreter_module = _module("ai_edge_litert.interpreter", int8_path)
    signatures = interpreter_module.Interpreter(str(fp32_path)).get_signature_list()
    key, signature = next(iter(signatures.items()))
    with _quiet():
        quantizer = quantizer_module.Quantizer(str(fp32_path))
        for name in INTEGER_OPS:
            quantizer.add_static_config(".*", name, activation_num_bits=8, weight_num_bits=8)
        quantizer.add_dynamic_config(".*", INTEGER_WEIGHTS, num_bits=8)
        inputs = [{signature["inputs"][0]: image[None]} for image in images]
        result = quantizer.quantize(quantizer.calibrate({key: inputs}))
        int8_path.parent.mkdir(parents=True, exist_ok=True)
        result.export_model(str(int8_path), overwrite=True)


def _module(name: str, path: Path) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise FoundryError(
            f"{path.name}: needs {name.split('.')[0]} ({error}); {LITERT_HINT} and see docs/edge.md"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """The converter prints its progress and warns of its own parts."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            yield
    finally:
        logging.disable(level)
