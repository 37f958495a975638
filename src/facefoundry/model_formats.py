"""Every file format that a model directory can leave in, each compared with PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import openvino
from torch import nn

from facefoundry.bundle import write_bundle, write_triton_repository
from facefoundry.deploy import FP16, FP32, INT8, INT8_TRT
from facefoundry.devices import DeviceSpec
from facefoundry.engine import MAX_BATCH, build_engine
from facefoundry.errors import FoundryError
from facefoundry.export import (
    Crops,
    cosines,
    embed,
    embed_torch,
    export_onnx,
    open_session,
    summary,
    to_input,
)
from facefoundry.insightface_package import write_insightface_package
from facefoundry.litert import export_litert, quantize_litert
from facefoundry.model_dir import ModelSpec
from facefoundry.onnx_half import write_fp16
from facefoundry.pte import export_executorch
from facefoundry.quantization import check_drift, quantize
from facefoundry.runtimes import open_runner

LITERT, LITERT_INT8 = "student.tflite", "student.int8.tflite"
EXECUTORCH = "student.pte"
OPENVINO, OPENVINO_INT8 = "openvino/student.xml", "openvino/student.int8.xml"
# The least mean cosine to PyTorch that a file may have, by how it computes.
LEAST = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.99}


@dataclass(frozen=True)
class Job:
    """One model to export: where to, and the aligned crops to calibrate and to compare on.

    made: files that several formats start from, so that they are written once in an export.
    """

    backbone: nn.Module
    spec: ModelSpec
    out: Path
    calibration: Crops
    held_out: Crops
    device: DeviceSpec
    made: set[str] = field(default_factory=set)

    def parity(self, name: str, precision: str) -> str:
        """The cosine of the file to PyTorch, as text. Raises FoundryError below `LEAST`."""
        found = open_runner(self.out / name)(to_input(self.held_out))
        cosine = summary(cosines(embed_torch(self.backbone, self.held_out), found))
        if cosine["mean"] < LEAST[precision]:
            raise FoundryError(
                f"{self.out / name}: mean cosine to PyTorch is {cosine['mean']:.4f}, below"
                f" {LEAST[precision]}; calibrate on more crops, or fine-tune (finetune.steps)"
            )
        return f"cosine to PyTorch {cosine['mean']:.6f}, lowest {cosine['min']:.6f}"

    def fp32(self) -> Path:
        """The FP32 ONNX file that most formats start from, made once."""
        path = self.out / FP32
        if FP32 not in self.made:
            export_onnx(self.backbone, self.spec, path)
            self.made.add(FP32)
        return path

    def int8(self, name: str, target: str) -> Path:
        """An INT8 ONNX file, made once. Raises FoundryError that names the layers that drift."""
        path = self.out / name
        if name not in self.made:
            quantize(self.fp32(), path, self.calibration, target)
            check_drift(self.fp32(), path, self.held_out)
            self.made.add(name)
        return path


def export_formats(job: Job, formats: Sequence[str]) -> dict[str, Any]:
    """Write `formats` (keys of FORMATS) to `job.out`, over what an older export left.

    Returns by format its `{file: what was found}`. Raises FoundryError for an unknown format
    before anything is written, for a runtime that is not installed, and for a file that is too
    far from PyTorch.
    """
    if unknown := [name for name in formats if name not in FORMATS]:
        raise FoundryError(f"--format: unknown {unknown[0]!r}; choose from {', '.join(FORMATS)}")
    return {name: FORMATS[name](job) for name in formats}


def _onnx(job: Job) -> dict[str, str]:
    job.fp32()
    return {FP32: job.parity(FP32, "fp32")}


def _int8(job: Job) -> dict[str, str]:
    job.int8(INT8, "cpu")
    return {INT8: job.parity(INT8, "int8")}


def _tensorrt(job: Job) -> dict[str, str]:
    """The bundle that a board builds from, and an engine where one can be built here."""
    int8, half = job.int8(INT8_TRT, "tensorrt"), job.out / FP16
    write_fp16(job.fp32(), half)
    golden = embed(open_session(job.fp32()), job.held_out)
    files = {"fp32": job.fp32(), "fp16": half, "int8": int8}
    write_bundle(job.out / "bundle", files, job.calibration, job.held_out, golden, job.device)
    built = build_engine(int8, job.out / "tensorrt", job.device)
    return {
        INT8_TRT: job.parity(INT8_TRT, "int8"),
        FP16: job.parity(FP16, "fp16"),
        "bundle": f"for {job.device.name}; not run there: copy it and run build.py",
        "tensorrt": built["statement"],
    }


def _litert(job: Job) -> dict[str, str]:
    export_litert(job.backbone, job.spec, job.out / LITERT)
    quantize_litert(job.out / LITERT, job.out / LITERT_INT8, job.calibration)
    return {LITERT: job.parity(LITERT, "fp32"), LITERT_INT8: job.parity(LITERT_INT8, "int8")}


def _executorch(job: Job) -> dict[str, str]:
    export_executorch(job.backbone, job.spec, job.out / EXECUTORCH)
    return {EXECUTORCH: job.parity(EXECUTORCH, "fp32")}


def _openvino(job: Job) -> dict[str, str]:
    for source, name in ((job.fp32(), OPENVINO), (job.int8(INT8, "cpu"), OPENVINO_INT8)):
        (job.out / name).parent.mkdir(parents=True, exist_ok=True)
        model = openvino.convert_model(str(source))
        openvino.save_model(model, str(job.out / name), compress_to_fp16=False)
    return {
        OPENVINO: job.parity(OPENVINO, "fp32"),
        OPENVINO_INT8: job.parity(OPENVINO_INT8, "int8"),
    }


def _insightface(job: Job) -> dict[str, str]:
    write_insightface_package(job.fp32(), job.out / "insightface", job.spec.architecture)
    return {"insightface": "a model package: get_model(DIRECTORY, model_task='recognition')"}


def _triton(job: Job) -> dict[str, str]:
    size = job.spec.embedding_size
    write_triton_repository(job.fp32(), size, job.out / "triton", MAX_BATCH)
    return {"triton": "a model repository: tritonserver --model-repository; not run here"}


FORMATS: dict[str, Callable[[Job], dict[str, str]]] = {
    "onnx": _onnx,
    "int8": _int8,
    "tensorrt": _tensorrt,
    "litert": _litert,
    "executorch": _executorch,
    "openvino": _openvino,
    "insightface": _insightface,
    "triton": _triton,
}
