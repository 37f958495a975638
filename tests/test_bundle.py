from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fake_tensorrt import FakeCuda, fake_tensorrt
from tiny_embedder import SPEC, crops, tiny_backbone

from facefoundry.bundle import SCRIPTS, write_bundle
from facefoundry.devices import DeviceSpec
from facefoundry.errors import FoundryError
from facefoundry.export import embed, export_onnx, open_session
from facefoundry.onnx_half import write_fp16
from facefoundry.quantization import quantize

GOLDEN = crops(4, seed=3)
ORIN = DeviceSpec("Orin NX", 87, "6.2", "10.3", int8=True, fp16=True, dla=True)
NANO = DeviceSpec("Nano", 53, "4.6", "8.2", int8=False, fp16=True, dla=False)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("onnx")
    names = {"fp32": "student", "fp16": "student.fp16", "int8": "student.int8.trt"}
    paths = {key: directory / f"{name}.onnx" for key, name in names.items()}
    export_onnx(tiny_backbone(), SPEC, paths["fp32"])
    write_fp16(paths["fp32"], paths["fp16"])
    quantize(paths["fp32"], paths["int8"], crops(8), "tensorrt", "minmax")
    return paths


def bundle_in(out: Path, files: dict[str, Path], device: DeviceSpec = ORIN) -> Path:
    embeddings = embed(open_session(files["fp32"]), GOLDEN)
    write_bundle(out, files, crops(6), GOLDEN, embeddings, device, max_batch=4)
    return out


@pytest.fixture
def bundle(files: dict[str, Path], tmp_path: Path) -> Path:
    return bundle_in(tmp_path / "bundle", files)


def script_of(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`build.py` as it lies in the bundle, with the modules that lie beside it."""
    monkeypatch.syspath_prepend(str(bundle))
    monkeypatch.delitem(sys.modules, "tensorrt_api", raising=False)
    spec = importlib.util.spec_from_file_location("bundle_build", bundle / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, trt: Any, asked: str | None = None, **more: Any
) -> dict[str, Any]:
    module = script_of(bundle, monkeypatch)
    return module.run_bundle(bundle, asked, 3, trt, FakeCuda(), **more)


def test_the_same_arguments_give_the_same_bytes(files: dict[str, Path], tmp_path: Path) -> None:
    first, second = (bundle_in(tmp_path / name, files) for name in "ab")
    names = {path.relative_to(first) for path in first.rglob("*") if path.is_file()}
    assert {Path(name) for name in ("build.py", "golden.npz", "deepstream.txt")} < names
    for name in names:
        assert (first / name).read_bytes() == (second / name).read_bytes(), name


def test_bundle_json_lists_every_file_and_claims_no_run(bundle: Path) -> None:
    content = json.loads((bundle / "bundle.json").read_text())
    listed = {bundle / name for name in content["sha256"]} | {bundle / "bundle.json"}
    assert listed == {path for path in bundle.rglob("*") if path.is_file()}
    assert content["device"]["tensorrt"] == "10.3"
    assert content["not_run"].startswith("nothing in this bundle has run on Orin NX")


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_parse_on_the_python_of_jetpack_4(bundle: Path, name: str) -> None:
    ast.parse((bundle / name).read_text(), feature_version=(3, 6))


@pytest.mark.parametrize("version", ["10.3.0", "11.4.1"])
def test_typed_line_builds_the_file_of_each_precision(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    trt = fake_tensorrt(version)
    report = run(bundle, monkeypatch, trt)
    assert report["passed"]
    assert report["tensorrt_as_expected"] == (version == "10.3.0")
    found = {row["precision"]: row for row in report["engines"]}
    assert found["fp16"]["onnx"] == "student.fp16.onnx"
    assert found["int8"]["onnx"] == "student.int8.trt.onnx"
    assert found["int8"]["cosine"]["mean"] >= 0.99
    assert found["int8"]["layer_types"] == {"Int8": 1}
    assert set(found["fp16"]["latency"]) == {"batch_1", "batch_4"}
    assert [settings["network_flags"] for settings in trt.built] == [2, 2]  # strongly typed
    assert not any(settings["flags"] for settings in trt.built)
    assert all(settings["batches"] == [1, 1, 4] for settings in trt.built)


@pytest.mark.parametrize("version", ["8.2.1", "8.5.2"])
def test_flag_line_builds_the_fp32_file_and_calibrates_once(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    trt = fake_tensorrt(version)
    assert run(bundle, monkeypatch, trt)["passed"]
    assert run(bundle, monkeypatch, trt, "int8")["passed"]
    assert [settings["flags"] for settings in trt.built] == [
        ["FP16"],
        ["FP16", "INT8"],
        ["FP16", "INT8"],
    ]
    assert [settings["calibrated"] for settings in trt.built] == [0, 6, 0]
    assert all(settings["network_flags"] == 1 for settings in trt.built)  # explicit batch
    assert (bundle / "timing.cache").read_bytes().endswith(b"timings")


def test_a_board_without_int8_is_not_asked_for_it(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundle_in(tmp_path / "nano", files, NANO)
    report = run(bundle, monkeypatch, fake_tensorrt("8.2.1"))
    assert [row["precision"] for row in report["engines"]] == ["fp16"]
    with pytest.raises(Exception, match="--precision int8: Nano has none; choose fp16"):
        run(bundle, monkeypatch, fake_tensorrt("8.2.1"), "int8")


def test_dla_takes_batch_one_and_the_flag_line(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trt = fake_tensorrt("8.5.2")
    assert run(bundle, monkeypatch, trt, "fp16", dla=True)["passed"]
    assert trt.built[0] == {
        "network_flags": 1,
        "flags": ["FP16", "GPU_FALLBACK"],
        "batches": [1, 1, 1],
        "dla": True,
        "calibrated": 0,
    }
    rows = run(bundle, monkeypatch, fake_tensorrt("10.3.0"), "fp16", dla=True)["engines"]
    assert rows[0]["error"].startswith("--dla: only with TensorRT 8.x")


def test_an_engine_that_computes_nonsense_fails(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = run(bundle, monkeypatch, fake_tensorrt("10.3.0", spoil=True), "fp16")
    assert not report["passed"]
    assert report["engines"][0]["cosine"]["mean"] < 0.9


@pytest.mark.parametrize(
    ("version", "place"), [("8.5.2", "node 7"), ("10.3.0", r"Conv_7 \(Conv\)")]
)
def test_a_refused_graph_names_the_node(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, version: str, place: str
) -> None:
    report = run(bundle, monkeypatch, fake_tensorrt(version, refuse="no such kernel"), "fp16")
    assert not report["passed"]
    pattern = rf".*student.*\.onnx: refused at {place}: no such kernel second line"
    assert re.fullmatch(pattern, report["engines"][0]["error"])


@pytest.mark.parametrize("version", ["7.1.3", "9.0.1", "12.0.0", "dev"])
def test_a_version_outside_the_table(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    with pytest.raises(Exception, match=rf"TensorRT {version}: not in the table \(8.x, 10.x, 11.x"):
        run(bundle, monkeypatch, SimpleNamespace(__version__=version))


def test_a_changed_file_is_refused_by_the_command_itself(bundle: Path) -> None:
    with (bundle / "student.onnx").open("ab") as file:
        file.write(b"x")
    done = subprocess.run(
        [sys.executable, "build.py"], cwd=bundle, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "error: student.onnx: sha256 differs from bundle.json; copy it again\n"
    assert not (bundle / "report.json").exists()


def test_trtexec_serves_where_the_module_is_missing(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in program that writes what trtexec writes, given the arguments it is given."""
    golden = np.load(bundle / "golden.npz")["embeddings"]
    output = json.dumps([{"name": "embedding", "values": golden.ravel().tolist()}])
    times = json.dumps([{"latencyMs": 1.0}, {"latencyMs": 3.0}])
    program = tmp_path / "bin" / "trtexec"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\necho \"$@\" >> arguments.txt\necho '{output}' > output.json\n"
        f"echo '{times}' > times.json\necho plan > student.fp16.engine\n"
        "echo plan > student.int8.engine\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")
    report = run(bundle, monkeypatch, None)
    assert report["passed"]
    assert report["engines"][0]["latency"]["batch_4"]["p50_ms"] == 2.0
    first, second = (bundle / "arguments.txt").read_text().splitlines()
    assert "--onnx=student.fp16.onnx" in first
    assert "--stronglyTyped" in first
    assert "--onnx=student.int8.trt.onnx" in second
    assert (bundle / "golden.bin").stat().st_size == 4 * 3 * 112 * 112 * 4


def test_neither_module_nor_trtexec(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(Exception, match="no tensorrt module and no trtexec"):
        run(bundle, monkeypatch, None)


def test_serving_configurations_fit_the_model(bundle: Path) -> None:
    assert (bundle / "triton/face_embedder/1/model.onnx").exists()
    config = (bundle / "triton/face_embedder/config.pbtxt").read_text()
    assert "dims: [ 32 ]" in config
    lines = (bundle / "deepstream.txt").read_text().splitlines()
    assert {"network-mode=2", "onnx-file=student.onnx", "batch-size=4"} <= set(lines)


@pytest.mark.parametrize("fault", ["precision", "golden", "calibration", "embeddings"])
def test_bad_arguments_write_nothing(files: dict[str, Path], tmp_path: Path, fault: str) -> None:
    embeddings = np.ones((len(GOLDEN) - (fault == "embeddings"), 32), np.float32)
    chosen = {name: path for name, path in files.items() if fault != "precision" or name == "fp32"}
    calibration = crops(2)[:, :96] if fault == "calibration" else crops(2)
    golden = GOLDEN[:0] if fault == "golden" else GOLDEN
    with pytest.raises(FoundryError):
        write_bundle(tmp_path / "never", chosen, calibration, golden, embeddings, ORIN)
    assert not (tmp_path / "never").exists()
