"""Static INT8 of an FP32 ONNX file of the contract, as explicit Quantize/Dequantize nodes.

Two targets, since no one form suits both:

- `cpu`: unsigned activations, signed weights (U8S8), the form of the VNNI and dot-product
  instructions. A zero point at the bottom of the range does the ReLU's work, so ReLU disappears.
- `tensorrt`: signed and symmetric throughout, float bias. TensorRT refuses any zero point but 0.

Crops are (N, 112, 112, 3) uint8 RGB, aligned. The pixel normalisation and the final division by
the norm stay float, and so does what a dense last layer puts out.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from facefoundry.errors import FoundryError
from facefoundry.export import (
    BOUNDARY_NODES,
    INPUT,
    Crops,
    Floats,
    cosines,
    embed,
    load_onnx,
    open_session,
    summary,
    to_input,
)
from facefoundry.layer_drift import layer_drift

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
# The histogram methods keep every activation of every crop in memory until the last one is seen.
HISTOGRAM_CROPS = 64
MIN_DRIFT_MEAN = 0.99

_DENSE_OUTPUT_IS_FLOAT = {"OpTypesToExcludeOutputQuantization": ["Gemm", "MatMul"]}
TARGETS: dict[str, dict[str, Any]] = {
    "cpu": {
        "activation_type": QuantType.QUInt8,
        "op_types_to_quantize": ["Conv", "Gemm", "MatMul", "Add", "Relu", "GlobalAveragePool"],
        "extra_options": _DENSE_OUTPUT_IS_FLOAT,
    },
    "tensorrt": {
        "activation_type": QuantType.QInt8,
        "op_types_to_quantize": ["Conv", "Gemm", "MatMul", "Add"],
        "extra_options": _DENSE_OUTPUT_IS_FLOAT
        | {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    },
}


def quantize(
    fp32_path: Path, int8_path: Path, calibration: Crops, target: str, method: str = "auto"
) -> dict[str, Any]:
    """Write the INT8 file for `target` (`cpu` or `tensorrt`) and tell how.

    `method` sets how activation ranges are found: `minmax`, `entropy` or `percentile`; `auto`
    tries them all and keeps the one with the least drift on the calibration crops themselves, so
    that held-out crops stay unseen. Returns `{target, method, bytes, calibration_crops,
    candidates}` where `candidates` maps each method tried to its `{mean, min}` cosine.
    Raises FoundryError for an empty or unaligned calibration set, or an unknown name.
    """
    _check_choice("target", target, TARGETS)
    _check_choice("method", method, [*METHODS, "auto"])
    images = to_input(calibration)
    load_onnx(fp32_path)
    candidates: dict[str, dict[str, float]] = {}
    with TemporaryDirectory() as scratch:
        for name in METHODS if method == "auto" else [method]:
            path = Path(scratch) / f"{name}.onnx"
            _quantize_once(fp32_path, path, images, target, name)
            candidates[name] = drift(fp32_path, path, calibration)
        best = max(candidates, key=lambda name: candidates[name]["mean"])
        data = (Path(scratch) / f"{best}.onnx").read_bytes()
    int8_path.parent.mkdir(parents=True, exist_ok=True)
    int8_path.write_bytes(data)
    return {
        "target": target,
        "method": best,
        "bytes": len(data),
        "calibration_crops": len(calibration),
        "candidates": candidates,
    }


def drift(fp32_path: Path, int8_path: Path, crops: Crops) -> dict[str, float]:
    """Cosine of INT8 to FP32 embeddings on `crops`, in onnxruntime: `{mean, min}`."""
    return summary(
        cosines(embed(open_session(fp32_path), crops), embed(open_session(int8_path), crops))
    )


def check_drift(
    fp32_path: Path, int8_path: Path, crops: Crops, minimum: float = MIN_DRIFT_MEAN
) -> dict[str, float]:
    """`drift`, or a FoundryError that names the three worst layers if its mean is below `minimum`.

    Give crops that calibration has not seen.
    """
    found = drift(fp32_path, int8_path, crops)
    if found["mean"] >= minimum:
        return found
    raise FoundryError(
        f"{int8_path}: mean cosine to FP32 is {found['mean']:.4f}, below {minimum}; the layers that"
        f" drift most: {worst_layers(fp32_path, int8_path, crops)}; calibrate on more crops, or set"
        " finetune.steps"
    )


def worst_layers(fp32_path: Path, int8_path: Path, crops: Crops) -> str:
    """The three layers that lose most when each alone is quantized, with their mean cosine."""
    worst = layer_drift(fp32_path, int8_path, crops)[:3]
    return ", ".join(f"{row['node']} ({row['mean']:.4f})" for row in worst)


def _check_choice(key: str, value: str, known: Any) -> None:
    if value not in known:
        raise FoundryError(f"{key}: unknown {value!r}; choose one of {', '.join(known)}")


class _Reader(CalibrationDataReader):
    """Feeds one image at a time (activations of a batch would be kept in memory together)."""

    def __init__(self, images: Floats) -> None:
        self._images = iter(images)

    def get_next(self) -> dict[str, Floats] | None:
        image = next(self._images, None)
        return None if image is None else {INPUT: image[None]}


def _quantize_once(
    fp32_path: Path, int8_path: Path, images: Floats, target: str, method: str
) -> None:
    if method != "minmax":
        images = images[
            np.linspace(0, len(images) - 1, min(len(images), HISTOGRAM_CROPS), dtype=int)
        ]
    prepared = int8_path.with_suffix(".prepared.onnx")
    with _quiet():
        # Shapes are inferred and constants folded here; without shapes a Conv may be left float.
        quant_pre_process(str(fp32_path), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(int8_path),
            _Reader(images),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            weight_type=QuantType.QInt8,
            calibrate_method=METHODS[method],
            nodes_to_exclude=list(BOUNDARY_NODES),
            **TARGETS[target],
        )
    onnx.save(_tidied(onnx.load(int8_path)), int8_path)


def _tidied(model: onnx.ModelProto) -> onnx.ModelProto:
    """Put the preprocessing first again, where InsightFace looks for it (among the first eight
    nodes), and drop the operator sets that the tools list but no node uses."""
    first = [node for node in model.graph.node if node.name in BOUNDARY_NODES[:2]]
    rest = [node for node in model.graph.node if node.name not in BOUNDARY_NODES[:2]]
    model.graph.ClearField("node")
    model.graph.node.extend([*first, *rest])
    used = {node.domain for node in model.graph.node}
    imports = [entry for entry in model.opset_import if entry.domain in used]
    model.ClearField("opset_import")
    model.opset_import.extend(imports)
    model.producer_name, model.producer_version = "facefoundry", ""
    return model


@contextmanager
def _quiet() -> Iterator[None]:
    """onnxruntime's quantizer prints, and logs advice through the root logger."""
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logging.root.setLevel(level)
