"""LiteRT files, run by the runtime that phones have. Skipped where the extra is not installed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_embedder import SPEC, crops, tiny_backbone

from facefoundry.errors import FoundryError
from facefoundry.export import cosines, embed_torch, to_input
from facefoundry.litert import export_litert, quantize_litert
from facefoundry.runtimes import open_runner

BACKBONE = tiny_backbone()
FACES = crops(6, seed=3)
NEEDED = ("litert_torch", "ai_edge_litert", "ai_edge_quantizer")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    for name in NEEDED:
        pytest.importorskip(name, reason=f"{name} is not installed; see docs/edge.md")
    directory = tmp_path_factory.mktemp("litert")
    paths = {"fp32": directory / "student.tflite", "int8": directory / "student.int8.tflite"}
    export_litert(BACKBONE, SPEC, paths["fp32"])
    quantize_litert(paths["fp32"], paths["int8"], crops(16, seed=4))
    return paths


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.999), ("int8", 0.99)])
def test_parity_to_pytorch(files: dict[str, Path], precision: str, least: float) -> None:
    found = open_runner(files[precision])(to_input(FACES))
    assert cosines(embed_torch(BACKBONE, FACES), found).mean() >= least
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1.0, atol=1e-5)


def test_int8_is_smaller_and_keeps_float_ends(files: dict[str, Path]) -> None:
    from ai_edge_litert.interpreter import Interpreter

    assert files["int8"].stat().st_size < 0.7 * files["fp32"].stat().st_size
    interpreter = Interpreter(str(files["int8"]))
    for details in (*interpreter.get_input_details(), *interpreter.get_output_details()):
        assert details["dtype"] is np.float32
    kinds = {entry["dtype"] for entry in interpreter.get_tensor_details()}
    assert np.int8 in kinds


def test_no_calibration_crops(files: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(FoundryError, match="no crops"):
        quantize_litert(files["fp32"], tmp_path / "never.tflite", crops(0))


def test_without_the_extra_the_pip_line_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (*NEEDED, "ai_edge_litert.interpreter"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(FoundryError, match=r"needs litert_torch .*facefoundry\[mobile\]"):
        export_litert(BACKBONE, SPEC, tmp_path / "never.tflite")
    with pytest.raises(FoundryError, match=r"needs LiteRT to run; pip install"):
        open_runner(tmp_path / "never.tflite")
