#!/usr/bin/env python3
"""Build TensorRT engines from this bundle on the device itself, and prove them.

    python3 build.py                 # FP16, and INT8 where the device has it
    python3 build.py --precision fp16 --rounds 500

Needs numpy and JetPack's `tensorrt` module and nothing else; where that module is missing,
`trtexec` serves. Checks the files (sha256) and the TensorRT version, builds, embeds the golden
crops, compares the embeddings with the shipped ones by cosine, measures latency, and writes
`report.json`. The exit status is 1 if anything fails.
"""
# ruff: noqa: B904, UP006, UP032, UP035, UP045

import argparse
import hashlib
import importlib
import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Optional

import numpy as np
from tensorrt_api import (
    BundleError,
    Cuda,
    build_plan,
    layer_types,
    line_of,
    make_calibrator,
    make_runner,
    measure,
    to_input,
)

BUNDLE = "bundle.json"
REPORT = "report.json"
MIN_COSINE = {"fp32": 0.9999, "fp16": 0.999, "int8": 0.99}
# TensorRT on JetPack lies here, outside the path of a fresh shell.
TRTEXEC = "/usr/src/tensorrt/bin/trtexec"


def read_bundle(directory: Path) -> Dict[str, Any]:
    """`bundle.json`, after every file that it lists was found to be as it was shipped."""
    path = directory / BUNDLE
    try:
        bundle = json.loads(path.read_text())
        digests = sorted(bundle["sha256"].items())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError("{}: no readable bundle ({}); copy it again".format(path, error))
    for name, digest in digests:
        try:
            found = hashlib.sha256((directory / name).read_bytes()).hexdigest()
        except OSError as error:
            raise BundleError("{}: cannot be read ({}); copy it again".format(name, error.strerror))
        if found != digest:
            raise BundleError("{}: sha256 differs from {}; copy it again".format(name, BUNDLE))
    return dict(bundle)


def precisions_of(bundle: Dict[str, Any], asked: Optional[str]) -> List[str]:
    """What to build: all that the device can do, or the one asked for."""
    device = bundle["device"]
    able = [name for name in ("fp16", "int8") if device[name]] or ["fp32"]
    if asked is None:
        return able
    if asked != "fp32" and asked not in able:
        raise BundleError(
            "--precision {}: {} has none; choose {}".format(
                asked, device["name"], " or ".join(able)
            )
        )
    return [asked]


def onnx_for(bundle: Dict[str, Any], precision: str, line: str) -> str:
    """The ONNX file to build: with flags always the FP32 one, else the one that has the types."""
    return str(bundle["onnx"]["fp32" if line == "flags" else precision])


def compare(found: np.ndarray, golden: np.ndarray) -> Dict[str, float]:
    """Cosine of the rows of two (N, D): `{mean, min}`."""
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(golden, axis=1)
    cosine = (found * golden).sum(axis=1) / norms
    return {"mean": float(cosine.mean()), "min": float(cosine.min())}


def passed(precision: str, cosine: Dict[str, float]) -> bool:
    """Are the embeddings close enough in the mean? (NaN is not.)"""
    return bool(cosine["mean"] >= MIN_COSINE[precision])


def build_one(
    directory: Path,
    bundle: Dict[str, Any],
    precision: str,
    rounds: int,
    trt: Any,
    cuda: Any,
    dla: bool = False,
) -> Dict[str, Any]:
    """Build, check and time one engine through the `tensorrt` module: one row of the report."""
    line = line_of(trt.__version__)
    calibrator = None
    if precision == "int8" and line == "flags":
        crops = np.load(str(directory / "calibration.npy"), allow_pickle=False)
        calibrator = make_calibrator(trt, cuda, crops, directory / "calibration.cache")
    onnx = onnx_for(bundle, precision, line)
    max_batch = 1 if dla else bundle["max_batch"]  # the DLA takes no free dimension
    start = time.perf_counter()
    plan = build_plan(
        trt,
        directory / onnx,
        precision,
        max_batch,
        calibrator,
        timing_cache=directory / "timing.cache",
        dla_core=0 if dla else None,
    )
    seconds = time.perf_counter() - start
    name = "student.{}.engine".format(precision)
    (directory / name).write_bytes(plan)
    engine = trt.Runtime(trt.Logger(trt.Logger.WARNING)).deserialize_cuda_engine(plan)
    if engine is None:
        raise BundleError("{}: TensorRT cannot load what it built; see its log above".format(name))
    golden = np.load(str(directory / "golden.npz"), allow_pickle=False)
    run = make_runner(engine, cuda, golden["embeddings"].shape[1], max_batch)
    found = np.concatenate([run(image[None]) for image in to_input(golden["crops"])])
    cosine = compare(found, golden["embeddings"])
    return {
        "precision": precision,
        "dla": dla,
        "onnx": onnx,
        "engine": name,
        "engine_bytes": len(plan),
        "build_seconds": round(seconds, 2),
        "cosine": cosine,
        "passed": passed(precision, cosine),
        "layer_types": layer_types(trt, engine),
        "latency": {"batch_{}".format(b): measure(run, b, rounds) for b in sorted({1, max_batch})},
    }


def trtexec_one(
    directory: Path, bundle: Dict[str, Any], precision: str, rounds: int, program: str, line: str
) -> Dict[str, Any]:
    """The same row by NVIDIA's `trtexec`, for one golden batch; TensorRT 8 has no calibration
    crops this way, so its INT8 comes from the file with Q/DQ nodes."""
    golden = np.load(str(directory / "golden.npz"), allow_pickle=False)
    count = min(len(golden["crops"]), bundle["max_batch"])
    to_input(golden["crops"][:count]).tofile(str(directory / "golden.bin"))
    onnx = bundle["onnx"]["fp32" if line == "flags" and precision != "int8" else precision]
    name = "student.{}.engine".format(precision)
    command = [program, *trtexec_arguments(onnx, name, precision, line, count, bundle["max_batch"])]
    start = time.perf_counter()
    done = subprocess.run([*command, "--iterations={}".format(rounds)], cwd=str(directory))
    if done.returncode:
        raise BundleError("{}: trtexec failed ({}); see above".format(onnx, done.returncode))
    outputs = json.loads((directory / "output.json").read_text())
    values = next(o["values"] for o in outputs if o["name"] == "embedding")
    cosine = compare(np.array(values).reshape(count, -1), golden["embeddings"][:count])
    times = json.loads((directory / "times.json").read_text())
    p50, p95, p99 = np.percentile([row["latencyMs"] for row in times], [50, 95, 99])
    return {
        "precision": precision,
        "onnx": onnx,
        "engine": name,
        "engine_bytes": (directory / name).stat().st_size,
        "build_and_run_seconds": round(time.perf_counter() - start, 2),
        "cosine": cosine,
        "passed": passed(precision, cosine),
        "latency": {"batch_{}".format(count): {"p50_ms": p50, "p95_ms": p95, "p99_ms": p99}},
    }


def trtexec_arguments(
    onnx: str, engine: str, precision: str, line: str, count: int, max_batch: int
) -> List[str]:
    flags = {"fp16": ["--fp16"], "int8": ["--int8", "--fp16"]}.get(precision, [])
    shape = "input:{}x3x112x112".format
    return [
        "--onnx=" + onnx,
        "--saveEngine=" + engine,
        "--minShapes=" + shape(1),
        "--optShapes=" + shape(count),
        "--maxShapes=" + shape(max_batch),
        "--shapes=" + shape(count),
        "--loadInputs=input:golden.bin",
        "--exportOutput=output.json",
        "--exportTimes=times.json",
        *(flags if line == "flags" else ["--stronglyTyped"]),
    ]


def run_bundle(
    directory: Path,
    asked: Optional[str],
    rounds: int,
    trt: Optional[Any],
    cuda: Optional[Any],
    dla: bool = False,
) -> Dict[str, Any]:
    """Everything, to a report. Without `trt` by trtexec. A precision that fails is a row with
    `error`, and the others are still tried."""
    bundle = read_bundle(directory)
    program = shutil.which("trtexec") or (TRTEXEC if Path(TRTEXEC).exists() else None)
    if trt is None and program is None:
        raise BundleError("no tensorrt module and no trtexec; install JetPack's TensorRT")
    if dla and (trt is None or not bundle["device"]["dla"]):
        raise BundleError("--dla: needs a device with a DLA and the tensorrt module; leave it out")
    expected = bundle["device"]["tensorrt"]
    version = trt.__version__ if trt is not None else expected
    line = line_of(version)
    rows: List[Dict[str, Any]] = []
    for precision in precisions_of(bundle, asked):
        print("{}: building, which takes minutes on a small device ...".format(precision))
        try:
            if trt is not None:
                row = build_one(directory, bundle, precision, rounds, trt, cuda, dla)
            else:
                row = trtexec_one(directory, bundle, precision, rounds, str(program), line)
        except BundleError as error:
            row = {"precision": precision, "passed": False, "error": str(error)}
        print(json.dumps(row))
        rows.append(row)
    return {
        "device": bundle["device"]["name"],
        "machine": platform.platform(),
        "tensorrt": version if trt is not None else "not known; built by trtexec",
        "tensorrt_expected": expected,
        "tensorrt_as_expected": version.split(".")[:2] == expected.split(".")[:2],
        "engines": rows,
        "passed": all(row["passed"] for row in rows),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Build and prove TensorRT engines here.")
    parser.add_argument("--precision", choices=sorted(MIN_COSINE))
    parser.add_argument("--rounds", type=int, default=200, help="timed runs (default 200)")
    parser.add_argument("--dla", action="store_true", help="build for DLA core 0, batch 1")
    arguments = parser.parse_args()
    directory = Path(__file__).resolve().parent
    try:
        trt = importlib.import_module("tensorrt")
    except ImportError:
        trt = None
    try:
        cuda = Cuda() if trt is not None else None
        asked, rounds, dla = arguments.precision, arguments.rounds, arguments.dla
        report = run_bundle(directory, asked, rounds, trt, cuda, dla)
    except BundleError as error:
        print("error: {}".format(error), file=sys.stderr)
        return 1
    (directory / REPORT).write_text(json.dumps(report, indent=2) + "\n")
    print("{} written: {}".format(REPORT, "passed" if report["passed"] else "FAILED"))
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
