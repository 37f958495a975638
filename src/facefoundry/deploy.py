"""The quantize and tensorrt stages' work: one student, every file that a device needs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from facefoundry.benchmarks import Embed, Images
from facefoundry.bundle import write_bundle
from facefoundry.calibration import read_crops
from facefoundry.devices import device_spec
from facefoundry.engine import build_engine
from facefoundry.errors import FoundryError
from facefoundry.evaluation import benchmark_sets, no_benchmark_note, similarities
from facefoundry.export import check_parity, embed, export_onnx, open_session
from facefoundry.latency import measure_latency
from facefoundry.model_dir import load_model
from facefoundry.onnx_half import write_fp16
from facefoundry.quantization import check_drift, drift, quantize, worst_layers
from facefoundry.quantization_aware import finetune_quantized
from facefoundry.results import pick
from facefoundry.runtimes import onnx_runner
from facefoundry.verification import Bools, fold_correct

FP32, FP16 = "student.onnx", "student.fp16.onnx"
INT8, INT8_TRT = "student.int8.onnx", "student.int8.trt.onnx"


def export_and_quantize(options: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Write FP32 and both INT8 files by the values of conf/quantize.yaml; return size, latency,
    accuracy and cosine drift of each. Raises FoundryError where INT8 loses too much."""
    backbone, spec = load_model(Path(options["model"]))
    calibration = pick_crops(options, "train", options["calibration_images"])
    held_out = pick_crops(options, "test", options["drift_images"])
    export_onnx(backbone, spec, out / FP32)
    metrics: dict[str, Any] = {"parity_to_pytorch": check_parity(backbone, out / FP32, held_out)}
    metrics["fp32"] = {"bytes": (out / FP32).stat().st_size}
    with TemporaryDirectory() as scratch:
        source = out / FP32
        if options["finetune"]["steps"]:
            source = Path(scratch) / FP32
            export_onnx(finetuned(backbone, options), spec, source)
        for name, file, target in (("int8", INT8, "cpu"), ("int8_trt", INT8_TRT, "tensorrt")):
            row = quantize(source, out / file, calibration, target, options["method"])
            metrics[name] = row | {"cosine_to_fp32": check_drift(out / FP32, out / file, held_out)}
        if source != out / FP32:
            metrics["int8"]["finetune"] = _without_finetuning(
                options, out / FP32, Path(scratch) / INT8, calibration, held_out
            )
    # the TensorRT file is for another runtime: its speed here would say nothing
    runners = {name: onnx_runner(out / file) for name, file in (("fp32", FP32), ("int8", INT8))}
    for name, row in measure_latency(runners).items():
        metrics[name] |= {"latency_ms_p50": row["p50_ms"], "latency_ms_p95": row["p95_ms"]}
    files = {"fp32": out / FP32, "int8": out / INT8, "int8_trt": out / INT8_TRT}
    rows = measure_accuracy(files, metrics, Path(options["benchmarks"]))
    check_accuracy(files, rows, held_out, options["max_accuracy_loss"])
    return metrics | rows


def finetuned(backbone: nn.Module, options: Mapping[str, Any]) -> nn.Module:
    """The backbone after the quantization-aware fine-tuning that `options` ask for."""
    chosen = options["finetune"]
    crops = pick_crops(options, "train", chosen["images"])
    return finetune_quantized(
        backbone, crops, chosen["steps"], chosen["lr"], chosen["batch_size"], options["seed"]
    )


def _without_finetuning(
    options: Mapping[str, Any], fp32: Path, int8: Path, calibration: Images, held_out: Images
) -> dict[str, Any]:
    """For the metrics: what the same file would have been by calibration alone."""
    quantize(fp32, int8, calibration, "cpu", options["method"])
    return {"steps": options["finetune"]["steps"], "cosine_without": drift(fp32, int8, held_out)}


def check_accuracy(
    files: Mapping[str, Path], rows: Mapping[str, Any], crops: Images, limit: float
) -> None:
    """Raise FoundryError, naming the layers that drift most, where an INT8 file loses more than
    `limit` (a share of the pairs: 0.003 is 0.3 points) to the FP32 file on a benchmark, by more
    than the standard error of that loss: a few pairs that fall either way fail nobody's run."""
    for name in (name for name in files if name != "fp32"):
        for benchmark in rows[name]:
            loss = pick(rows[name], benchmark, "loss_to_fp32")
            if loss is not None and loss["share"] - loss["standard_error"] > limit:
                raise FoundryError(
                    f"{files[name]}: {100 * loss['share']:.2f} points of accuracy on {benchmark}"
                    f" are lost to INT8, more than {100 * limit:g}; the layers that drift most:"
                    f" {worst_layers(files['fp32'], files[name], crops)};"
                    " calibrate on more crops, or set finetune.steps"
                )


def measure_accuracy(
    files: Mapping[str, Path], metrics: Mapping[str, Any], root: Path
) -> dict[str, Any]:
    """The rows of `metrics` for `files`, `fp32` first, each with its result on every benchmark
    under `root` and with what it loses there to the first."""
    rows = {name: dict(metrics[name]) for name in files}
    pair_sets = benchmark_sets(root)
    for pair_set in pair_sets:
        pairs, right = pair_set.pairs, {}
        for name, path in files.items():
            similarity = similarities(onnx_embedder(path), pair_set)
            right[name] = fold_correct(similarity, pairs.same, pairs.fold)
            loss = {"loss_to_fp32": paired_loss(right["fp32"], right[name])}
            rows[name][pair_set.name] = pair_set.metrics(similarity) | loss
    return rows if pair_sets else rows | {"benchmarks_note": no_benchmark_note(root)}


def paired_loss(before: Bools, after: Bools) -> dict[str, float]:
    """Share of pairs (P,) judged rightly before and no longer, less those won, and the standard
    error of that difference."""
    lost = before.astype(float) - after
    return {"share": float(lost.mean()), "standard_error": float(lost.std() / len(lost) ** 0.5)}


def build_engines(options: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Build engines from the quantized student and write `out/bundle` by conf/tensorrt.yaml."""
    quantized = Path(options["quantized"])
    device = device_spec(options["device"])
    int8 = build_engine(quantized / INT8_TRT, out, device, options["backend"])
    half = out / FP16
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
    return read_crops(Path(options["faces"]), split, count, options["seed"])


def onnx_embedder(path: Path, threads: int = 2) -> Embed:
    session = open_session(path, threads)
    return lambda images: embed(session, images)
