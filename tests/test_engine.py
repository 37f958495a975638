from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from fake_tensorrt import FakeCuda, fake_tensorrt
from tiny_embedder import SPEC, crops, tiny_backbone

from facefoundry import engine
from facefoundry.devices import device_spec
from facefoundry.engine import build_engine, choose_backend, precision_of
from facefoundry.errors import FoundryError
from facefoundry.export import export_onnx, load_onnx
from facefoundry.onnx_half import write_fp16
from facefoundry.quantization import quantize

DEVICES = sorted((Path(__file__).parents[1] / "conf/device").glob("*.yaml"))
ORIN = {
    "name": "Orin",
    "sm": 87,
    "jetpack": "6.2",
    "tensorrt": "10.3",
    "int8": True,
    "fp16": True,
    "dla": False,
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("engine")
    paths = {name: directory / f"student.{name}.onnx" for name in ("fp32", "fp16", "int8", "cpu")}
    export_onnx(tiny_backbone(), SPEC, paths["fp32"])
    write_fp16(paths["fp32"], paths["fp16"])
    quantize(paths["fp32"], paths["int8"], crops(4), "tensorrt", "minmax")
    quantize(paths["fp32"], paths["cpu"], crops(4), "cpu", "minmax")
    return paths


@pytest.mark.parametrize("path", DEVICES, ids=lambda path: path.stem)
def test_every_device_table_is_sound(path: Path) -> None:
    device = device_spec(yaml.safe_load(path.read_text()))
    assert device.int8 == (device.sm >= 70)


def test_all_boards_are_there() -> None:
    names = {"orin_nano", "orin_nx", "orin_agx", "xavier", "thor", "tx2", "nano"}
    assert {path.stem for path in DEVICES} == names


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tensorrt": "7.1"}, "device.tensorrt: '7.1' is not in the table for JetPack 6.2"),
        ({"jetpack": "3.3"}, "device.jetpack: '3.3' is not in the table"),
        ({"sm": 53}, "device.int8: SM53 has no INT8"),
        ({"tensorrt": 10.3}, "device.tensorrt: 10.3 is no str; a version is quoted"),
        ({"dla": 1}, "device.dla: 1 is no bool"),
        ({"speed": 1}, r"device: keys \['speed'\]"),
    ],
)
def test_a_device_outside_the_table(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FoundryError, match=message):
        device_spec(ORIN | change)


def test_precision_is_read_from_the_file(files: dict[str, Path]) -> None:
    found = {name: precision_of(load_onnx(path)) for name, path in files.items()}
    assert found == {"fp32": "fp32", "fp16": "fp16", "int8": "int8", "cpu": "int8"}


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_rtx_takes_the_graph(
    files: dict[str, Path], tmp_path: Path, precision: str
) -> None:
    pytest.importorskip("tensorrt_rtx")
    found = build_engine(files[precision], tmp_path, device_spec(ORIN), "tensorrt_rtx")
    assert found["built"]
    assert found["precision"] == precision
    assert found["engine_bytes"] == (tmp_path / found["engine"]).stat().st_size > 1000
    assert "Nothing ran on a GPU" in found["statement"]
    assert any("Orin (SM87, TensorRT 10.3)" in line for line in found["not_run"])


def test_tensorrt_rtx_refuses_unsigned_int8_and_the_node_is_named(
    files: dict[str, Path], tmp_path: Path
) -> None:
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(FoundryError, match=r"cpu\.onnx: refused at .*DequantizeLinear") as caught:
        build_engine(files["cpu"], tmp_path, device_spec(ORIN), "tensorrt_rtx")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_none_builds_nothing_and_says_so(files: dict[str, Path], tmp_path: Path) -> None:
    found = build_engine(files["fp32"], tmp_path, device_spec(ORIN), "none")
    assert not found["built"]
    assert found["engine"] is None
    assert found["statement"].startswith("No engine was built")
    assert len(found["not_run"]) == 2


@pytest.mark.parametrize(
    ("here", "gpu", "expected"),
    [
        ({"tensorrt", "tensorrt_rtx"}, True, "tensorrt"),
        ({"tensorrt", "tensorrt_rtx"}, False, "tensorrt_rtx"),
        ({"tensorrt"}, False, "none"),
        (set(), True, "none"),
    ],
)
def test_auto_takes_the_best_that_is_here(
    monkeypatch: pytest.MonkeyPatch, here: set[str], gpu: bool, expected: str
) -> None:
    monkeypatch.setattr(engine, "_module", lambda name: object() if name in here else None)
    monkeypatch.setattr(engine, "has_gpu", lambda: gpu)
    assert choose_backend("auto") == expected


def test_a_backend_that_is_not_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_module", lambda name: None)
    with pytest.raises(FoundryError, match="backend=tensorrt: not here"):
        choose_backend("tensorrt")
    with pytest.raises(FoundryError, match=r"backend=tensorrt_rtx: not here; .*pip install"):
        choose_backend("tensorrt_rtx")
    with pytest.raises(FoundryError, match="backend: unknown 'openvino'; choose one of auto"):
        choose_backend("openvino")


@pytest.mark.parametrize(("version", "precision"), [("8.5.2", "fp32"), ("10.3.0", "int8")])
def test_tensorrt_on_a_gpu_is_built_and_timed(
    files: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    precision: str,
) -> None:
    trt = fake_tensorrt(version)
    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(engine, "has_gpu", lambda: True)
    monkeypatch.setattr(engine.api, "Cuda", FakeCuda)
    found = build_engine(files[precision], tmp_path, device_spec(ORIN), max_batch=2)
    assert found["backend"] == "tensorrt"
    assert found["engine_bytes"] == (tmp_path / found["engine"]).stat().st_size
    assert found["cosine_to_onnxruntime"]["min"] >= 0.9999
    assert found["layer_types"] == {"Int8": 1}
    assert set(found["latency"]) == {"batch_1", "batch_2"}
    assert found["not_run"] == [
        "building, running and timing on Orin (SM87, TensorRT 10.3): run bundle/build.py there"
    ]


def test_tensorrt_outside_the_table(
    files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt("7.1.3"))
    monkeypatch.setattr(engine, "has_gpu", lambda: True)
    with pytest.raises(FoundryError, match=r"TensorRT 7\.1\.3: not in the table"):
        build_engine(files["fp32"], tmp_path, device_spec(ORIN), "tensorrt")
