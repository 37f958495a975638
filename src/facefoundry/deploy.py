"""The quantize and tensorrt stages' work: one student, every file that a device needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from facefoundry.benchmarks import Embed, Images
from facefoundry.bundle import write_bundle
from facefoundry.data import read_split
from facefoundry.engine import build_engine, device_spec
from facefoundry.evaluation import benchmark_sets, no_benchmark_note, similarities
from facefoundry.export import check_parity, embed, export_onnx, open_session
from facefoundry.latency import measure_latency
from facefoundry.model_dir import load_model
from facefoundry.onnx_half import write_fp16
from facefoundry.quantization import check_drift, quantize
from facefoundry.runtimes import onnx_runner

FP32, INT8, INT8_TRT = "student.onnx", "student.int8.onnx", "student.int8.trt.onnx"


def export_and_quantize(options: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Write FP32 and both INT8 files by the values of conf/quantize.yaml; return size, latency,
    accuracy and cosine drift of each. Raises FoundryError where the drift is too large."""
    backbone, spec = load_model(Path(options["model"]))
    calibration = pick_crops(options, "train", options["calibration_images"])
    held_out = pick_crops(options, "test", options["drift_images"])
    export_onnx(backbone, spec, out / FP32)
    metrics: dict[str, Any] = {"parity_to_pytorch": check_parity(backbone, out / FP32, held_out)}
    metrics["fp32"] = {"bytes": (out / FP32).stat().st_size}
    for name, file, target in (("int8", INT8, "cpu"), ("int8_trt", INT8_TRT, "tensorrt")):
        row = quantize(out / FP32, out / file, calibration, target, options["method"])
        metrics[name] = row | {"cosine_to_fp32": check_drift(out / FP32, out / file, held_out)}
    # the TensorRT file is for another runtime: its speed here would say nothing
    runners = {name: onnx_runner(out / file) for name, file in (("fp32", FP32), ("int8", INT8))}
    for name, row in measure_latency(runners).items():
        metrics[name] |= {"latency_ms_p50": row["p50_ms"], "latency_ms_p95": row["p95_ms"]}
    files = {"fp32": out / FP32, "int8": out / INT8, "int8_trt": out / INT8_TRT}
    return metrics | measure_accuracy(files, metrics, Path(options["benchmarks"]))


def measure_accuracy(
    files: Mapping[str, Path], metrics: Mapping[str, Any], root: Path
) -> dict[str, Any]:
    """The rows of `metrics` for `files`, each with its result on every benchmark under `root`."""
    rows = {name: dict(metrics[name]) for name in files}
    pair_sets = benchmark_sets(root)
    for pair_set in pair_sets:
        for name, path in files.items():
            similarity = similarities(onnx_embedder(path), pair_set)
            rows[name][pair_set.name] = pair_set.metrics(similarity)
    return rows if pair_sets else rows | {"benchmarks_note": no_benchmark_note(root)}


def build_engines(options: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Build engines from the quantized student and write `out/bundle` by conf/tensorrt.yaml."""
    quantized = Path(options["quantized"])
    device = device_spec(options["device"])
    int8 = build_engine(quantized / INT8_TRT, out, device, options["backend"])
    half = out / "student.fp16.onnx"
    write_fp16(quantized / FP32, half)
    fp16 = build_engine(half, out, device, options["backend"])
    golden = pick_crops(options, "test", options["golden_images"])
    write_bundle(
        out / "bundle",
        {"fp32": quantized / FP32, "fp16": half, "int8": quantized / INT8_TRT},
        pick_crops(options, "train", options["calibration_images"]),
        golden,
        embed(open_session(quantized / FP32), golden),
        device,
    )
    return int8 | {"fp16": fp16}


def pick_crops(options: Mapping[str, Any], split: str, count: int) -> Images:
    """Up to `count` crops of a split, drawn by the seed."""
    crops, _, _ = read_split(Path(options["faces"]), split)
    order = np.random.default_rng(options["seed"]).permutation(len(crops))
    return crops[np.sort(order[:count])]


def onnx_embedder(path: Path, threads: int = 2) -> Embed:
    session = open_session(path, threads)
    return lambda images: embed(session, images)
