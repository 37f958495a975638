from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from tiny_embedder import SPEC, crops, tiny_backbone

from facefoundry.errors import FoundryError
from facefoundry.export import Floats, export_onnx, read_metadata
from facefoundry.latency import measure_latency
from facefoundry.layer_drift import layer_drift
from facefoundry.quantization import METHODS, check_drift, drift, quantize
from facefoundry.runtimes import onnx_runner, openvino_runner

CALIBRATION, HELD_OUT = crops(12, seed=1), crops(6, seed=2)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    directory = tmp_path_factory.mktemp("quantize")
    paths = {name: directory / f"{name}.onnx" for name in ("fp32", "cpu", "tensorrt")}
    export_onnx(tiny_backbone(), SPEC, paths["fp32"])
    for target in ("cpu", "tensorrt"):
        quantize(paths["fp32"], paths[target], CALIBRATION, target, "minmax")
    return paths


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_embeddings_hardly_move_on_unseen_crops(files: dict[str, Path], target: str) -> None:
    found = check_drift(files["fp32"], files[target], HELD_OUT)
    assert 0.99 <= found["mean"] < 1.0
    assert found["min"] >= 0.98
    assert read_metadata(files[target])["architecture"] == "tiny"


def test_cpu_file_runs_wholly_in_integers(files: dict[str, Path], tmp_path: Path) -> None:
    """What onnxruntime makes of it: no float convolution, and no ReLU left over."""
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    ort.InferenceSession(str(files["cpu"]), options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert not {"Conv", "Relu", "Gemm", "Add"} & set(kinds)
    assert kinds.count("QLinearConv") == 9


def test_tensorrt_file_is_signed_symmetric_and_has_float_biases(files: dict[str, Path]) -> None:
    graph = onnx.load(files["tensorrt"]).graph
    values = {value.name: numpy_helper.to_array(value) for value in graph.initializer}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            zero_point = values[node.input[2]]
            assert zero_point.dtype == np.int8
            assert not zero_point.any()
    assert np.int32 not in {value.dtype.type for value in values.values()}


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_weights_are_per_channel_and_the_ends_float(files: dict[str, Path], target: str) -> None:
    graph = onnx.load(files[target]).graph
    assert [node.name for node in graph.node[:2]] == ["Sub_mean", "Mul_scale"]
    assert [node.op_type for node in graph.node[-3:]] == ["Gemm", "ReduceL2", "Div"]
    scales = [value.dims for value in graph.initializer if value.name.endswith("_scale")]
    assert sum(list(dims) not in ([], [1]) for dims in scales) >= 10  # nine convolutions, one Gemm
    assert files[target].stat().st_size < files["fp32"].stat().st_size


def test_auto_takes_the_method_of_least_drift(files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "auto.onnx"
    found = quantize(files["fp32"], path, CALIBRATION, "cpu")
    means = {name: value["mean"] for name, value in found["candidates"].items()}
    assert set(means) == set(METHODS)
    assert means[found["method"]] == max(means.values())
    assert drift(files["fp32"], path, CALIBRATION)["mean"] == pytest.approx(max(means.values()))
    assert found["bytes"] == path.stat().st_size


def test_quantization_is_deterministic(files: dict[str, Path], tmp_path: Path) -> None:
    quantize(files["fp32"], tmp_path / "again.onnx", CALIBRATION, "cpu", "minmax")
    assert (tmp_path / "again.onnx").read_bytes() == files["cpu"].read_bytes()


@pytest.mark.parametrize("target", ["cpu", "tensorrt"])
def test_the_layer_that_drifts_is_named(
    files: dict[str, Path], tmp_path: Path, target: str
) -> None:
    """One weight scale of one convolution is spoilt: that node must come first."""
    model = onnx.load(files[target])
    convolution = [node for node in model.graph.node if node.op_type == "Conv"][4]
    source = next(n for n in model.graph.node if n.output[0] == convolution.input[1])
    for value in model.graph.initializer:
        if value.name == source.input[1]:
            spoilt = numpy_helper.to_array(value) * np.linspace(0.1, 5, value.dims[0])
            value.CopyFrom(numpy_helper.from_array(spoilt.astype(np.float32), value.name))
    path = tmp_path / "spoilt.onnx"
    onnx.save(model, path)
    rows = layer_drift(files["fp32"], path, HELD_OUT)
    assert rows[0]["node"] == convolution.name
    assert rows[0]["mean"] < 0.99 < rows[1]["mean"]
    with pytest.raises(FoundryError, match=rf"drift most: {convolution.name}"):
        check_drift(files["fp32"], path, HELD_OUT)


@pytest.mark.parametrize("shape", [(0, 112, 112, 3), (4, 96, 96, 3), (112, 112, 3)])
def test_a_bad_calibration_set(files: dict[str, Path], tmp_path: Path, shape: tuple[int]) -> None:
    path = tmp_path / "never.onnx"
    with pytest.raises(FoundryError, match="crops"):
        quantize(files["fp32"], path, np.zeros(shape, np.uint8), "cpu")
    assert not path.exists()


@pytest.mark.parametrize(("target", "method"), [("gpu", "minmax"), ("cpu", "guess")])
def test_unknown_names(files: dict[str, Path], tmp_path: Path, target: str, method: str) -> None:
    with pytest.raises(FoundryError, match=r"unknown '(gpu|guess)'; choose one of"):
        quantize(files["fp32"], tmp_path / "never.onnx", CALIBRATION, target, method)


def test_latency_of_two_files_side_by_side(files: dict[str, Path]) -> None:
    runners = {"fp32": onnx_runner(files["fp32"]), "int8": openvino_runner(files["cpu"])}
    found = measure_latency(runners, batch=2, rounds=5)
    assert set(found) == set(runners)
    for row in found.values():
        assert 0 < row["p50_ms"] <= row["p95_ms"]
        assert row["images_per_second"] == pytest.approx(2000 / row["p50_ms"])


def test_processor_time_leaves_waiting_out() -> None:
    def waiting(images: Floats) -> Floats:
        time.sleep(0.02)
        return images

    row = measure_latency({"waiting": waiting}, rounds=5)["waiting"]
    assert row["cpu_ms"] < 10 < 20 <= row["p50_ms"]
