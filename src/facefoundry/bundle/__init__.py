"""What a user copies to a Jetson: the model, the proof data, and one script that needs no
facefoundry there."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime

from facefoundry import __version__
from facefoundry.bundle.texts import deepstream_config, readme, triton_config
from facefoundry.errors import FoundryError
from facefoundry.export import Crops, Floats, load_onnx, read_metadata, to_input

if TYPE_CHECKING:
    from facefoundry.devices import DeviceSpec

FORMAT_VERSION = 1
PRECISIONS = ("fp32", "fp16", "int8")
SCRIPTS = ("build.py", "tensorrt_api.py")


def write_bundle(
    out_dir: Path,
    onnx_files: Mapping[str, Path],
    calibration: Crops,
    golden: Crops,
    golden_embeddings: Floats,
    device: DeviceSpec,
    max_batch: int = 16,
) -> dict[str, Any]:
    """Write the bundle directory (an older one is replaced) and return its `bundle.json`.

    `onnx_files` maps `fp32`, `fp16` and `int8` (the file with TensorRT's Q/DQ) to files. Crops are
    (N, 112, 112, 3) uint8 RGB; `golden_embeddings` (N, D) are the FP32 ones of `golden`. The same
    arguments give the same bytes. Raises FoundryError for a missing precision, a file that is not
    of the contract, or crops that are not aligned.
    """
    if set(onnx_files) != set(PRECISIONS):
        raise FoundryError(f"bundle: needs one ONNX file for each of {', '.join(PRECISIONS)}")
    for path in onnx_files.values():
        load_onnx(path)
    to_input(calibration)
    to_input(golden)
    if len(golden_embeddings) != len(golden) or not np.isfinite(golden_embeddings).all():
        raise FoundryError(
            f"bundle: {len(golden)} golden crops need as many finite embeddings,"
            f" got {golden_embeddings.shape}"
        )
    shutil.rmtree(out_dir, ignore_errors=True)
    out_dir.mkdir(parents=True)
    names = {precision: _copy_onnx(path, out_dir) for precision, path in onnx_files.items()}
    np.save(out_dir / "calibration.npy", calibration)
    np.savez(out_dir / "golden.npz", crops=golden, embeddings=golden_embeddings.astype(np.float32))
    for script in SCRIPTS:
        shutil.copyfile(Path(__file__).with_name(script), out_dir / script)
    _write_serving(out_dir, names, golden_embeddings.shape[1], device, max_batch)
    (out_dir / "README.md").write_text(readme(device, len(calibration), len(golden)))
    bundle = _description(out_dir, names, device, max_batch)
    (out_dir / "bundle.json").write_text(json.dumps(bundle, indent=2) + "\n")
    return bundle


def _copy_onnx(path: Path, out_dir: Path) -> str:
    shutil.copyfile(path, out_dir / path.name)
    return path.name


def _write_serving(
    out_dir: Path, names: Mapping[str, str], size: int, device: DeviceSpec, max_batch: int
) -> None:
    (out_dir / "deepstream.txt").write_text(deepstream_config(names, device, max_batch))
    write_triton_repository(out_dir / names["fp32"], size, out_dir / "triton", max_batch)


def write_triton_repository(onnx_path: Path, size: int, directory: Path, max_batch: int) -> None:
    """Write a Triton model repository of one model, `face_embedder`, for its ONNX Runtime backend.

    size: numbers in an embedding. Start with `tritonserver --model-repository=DIRECTORY`.
    """
    model = directory / "face_embedder"
    (model / "1").mkdir(parents=True, exist_ok=True)
    shutil.copyfile(onnx_path, model / "1" / "model.onnx")
    (model / "config.pbtxt").write_text(triton_config(size, max_batch))


def _description(
    out_dir: Path, names: Mapping[str, str], device: DeviceSpec, max_batch: int
) -> dict[str, Any]:
    """The content of `bundle.json`; the model's own metadata travels inside its ONNX files."""
    files = sorted(path for path in out_dir.rglob("*") if path.is_file())
    return {
        "format_version": FORMAT_VERSION,
        "versions": {
            "facefoundry": __version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
        "architecture": read_metadata(out_dir / names["fp32"])["architecture"],
        "device": {
            "name": device.name,
            "sm": device.sm,
            "jetpack": device.jetpack,
            "tensorrt": device.tensorrt,
            "int8": device.int8,
            "fp16": device.fp16,
            "dla": device.dla,
        },
        "max_batch": max_batch,
        "onnx": dict(names),
        "not_run": f"nothing in this bundle has run on {device.name} yet; build.py is the proof",
        "sha256": {
            path.relative_to(out_dir).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in files
        },
    }
