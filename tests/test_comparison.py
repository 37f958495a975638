"""`facefoundry export` and `facefoundry benchmark` on a small model, and what their tables mean."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino
import pytest
import yaml
from conftest import ROOT
from tiny_embedder import SPEC, crops
from typer.testing import CliRunner

from facefoundry import calibration, comparison, model_formats
from facefoundry.backbones import build_backbone
from facefoundry.benchmarks import PAIRS
from facefoundry.cli import build_app
from facefoundry.devices import read_device
from facefoundry.errors import FoundryError
from facefoundry.export import cosines, embed_torch, read_metadata, to_input
from facefoundry.images import save_png
from facefoundry.model_dir import load_model, save_model
from facefoundry.model_formats import FORMATS, Job, export_formats

ARGUMENTS = {"widths": [8, 16, 24], "blocks": [1, 1, 1], "head": 24}
HOSTS = "onnx,int8,openvino,insightface,triton"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model directory and a folder of crops."""
    root = tmp_path_factory.mktemp("edge")
    spec = replace(SPEC, architecture="small_resnet", embedding_size=16, arguments=ARGUMENTS)
    save_model(root / "model", build_backbone("small_resnet", embedding_size=16, **ARGUMENTS), spec)
    (root / "crops").mkdir()
    for number, crop in enumerate(crops(16)):
        save_png(crop, root / f"crops/{number:02}.png")
    return root


def run(root: Path, *arguments: str) -> str:
    """The command's output, in a working directory with the project's conf/."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(calibration, "check_aligned", lambda *_: None)  # the crops are noise
        patch.chdir(ROOT)
        done = CliRunner().invoke(build_app(), list(arguments))
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def exported(workplace: Path) -> Path:
    out = workplace / "exports"
    places = ["--out", str(out), "--crops", str(workplace / "crops")]
    said = run(workplace, "export", str(workplace / "model"), "--format", HOSTS, *places)
    for name in HOSTS.split(","):
        assert f"{name}: {out}" in said
    return out


def test_every_format_is_in_the_help() -> None:
    said = CliRunner().invoke(build_app(), ["export", "--help"]).stdout
    assert all(name in said for name in FORMATS)


def test_one_onnx_file_is_behind_every_host(exported: Path) -> None:
    single = (exported / "student.onnx").read_bytes()
    assert (exported / "insightface/student.onnx").read_bytes() == single
    assert (exported / "triton/face_embedder/1/model.onnx").read_bytes() == single
    assert "dims: [ 16 ]" in (exported / "triton/face_embedder/config.pbtxt").read_text()


@pytest.mark.parametrize(("name", "least"), [("student", 0.9999), ("student.int8", 0.99)])
def test_openvino_files_stand_alone(
    exported: Path, workplace: Path, name: str, least: float
) -> None:
    backbone, _ = load_model(workplace / "model")
    compiled = openvino.Core().compile_model(str(exported / f"openvino/{name}.xml"), "CPU")
    found = compiled([to_input(crops(3))])[0]
    assert cosines(embed_torch(backbone, crops(3)), found).mean() >= least


def test_a_later_export_replaces_the_files_of_another_model(
    exported: Path, workplace: Path
) -> None:
    _, spec = load_model(workplace / "model")
    other = replace(spec, provenance={"seed": 1})
    backbone = build_backbone("small_resnet", embedding_size=16, **ARGUMENTS).eval()
    job = Job(backbone, other, workplace / "again", crops(8), crops(2), read_orin())
    export_formats(job, ["onnx"])
    export_formats(replace(job, spec=spec, made=set()), ["insightface"])
    assert read_metadata(workplace / "again/insightface/student.onnx")["provenance"] == (
        spec.provenance
    )


def read_orin() -> Any:
    return read_device("orin_nano", ROOT / "conf/device")


def test_tensorrt_leaves_the_bundle_and_says_what_was_not_run(workplace: Path) -> None:
    backbone, spec = load_model(workplace / "model")
    job = Job(backbone, spec, workplace / "trt", crops(8), crops(2), read_orin())
    found = export_formats(job, ["tensorrt"])["tensorrt"]
    assert (workplace / "trt/bundle/build.py").is_file()
    assert "not run there" in found["bundle"]
    assert float(found["student.fp16.onnx"].split()[3].rstrip(",")) >= 0.999


def test_a_file_far_from_pytorch_is_an_error(
    workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def opposite(_path: Path) -> Any:
        return lambda images: -np.ones((len(images), 16), np.float32)

    monkeypatch.setattr(model_formats, "open_runner", opposite)
    backbone, spec = load_model(workplace / "model")
    job = Job(backbone, spec, workplace / "far", crops(8), crops(2), read_orin())
    with pytest.raises(FoundryError, match=r"student\.onnx: mean cosine to PyTorch is"):
        export_formats(job, ["onnx"])


def test_unknown_names_are_refused_before_any_work(workplace: Path) -> None:
    backbone, spec = load_model(workplace / "model")
    job = Job(backbone, spec, workplace / "never", crops(8), crops(2), read_orin())
    with pytest.raises(FoundryError, match="--format: unknown 'coreml'; choose from onnx, int8"):
        export_formats(job, ["onnx", "coreml"])
    assert not (workplace / "never").exists()
    with pytest.raises(FoundryError, match=r"device: 'orin' is not one of nano, orin_agx"):
        read_device("orin", ROOT / "conf/device")


def cheap_peers(_scratch: Path, _threads: int) -> Iterator[comparison.Candidate]:
    for model in ("SFace", "MobileFaceNet"):
        yield comparison.Candidate(model, "onnxruntime", "FP32", 1, lambda images: images[:, 0, 0])


def test_the_benchmark_compares_every_format_at_hand(exported: Path, workplace: Path) -> None:
    toy = workplace / "benchmarks/toy"
    toy.mkdir(parents=True)
    for number, crop in enumerate(crops(8)):
        save_png(crop, toy / f"{number}.png")
    pairs = "a,b,same,fold\n0.png,1.png,1,0\n2.png,3.png,0,0\n4.png,5.png,1,1\n6.png,7.png,0,1\n"
    (toy / PAIRS).write_text(pairs)
    places = ["--exports", str(exported), "--crops", str(workplace / "crops")]
    places += ["--benchmarks", str(toy.parent), "--json", str(workplace / "found.json")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "peers", cheap_peers)
        patch.setattr(comparison, "reference_embeddings", lambda *_: np.eye(8, dtype=np.float32))
        said = run(workplace, "benchmark", str(workplace / "model"), "--rounds", "10", *places)
    found = json.loads((workplace / "found.json").read_text())
    rows = {(r["model"], r["runtime"], r["precision"]): r for r in found["rows"]}
    ours = [key for key in rows if key[0] == "this model"]
    assert {key[1:] for key in ours} == {
        ("PyTorch", "FP32"),
        *((runtime, p) for runtime in ("onnxruntime", "OpenVINO") for p in ("FP32", "INT8")),
    }
    for key in ours:
        assert rows[key]["cosine"]["mean"] >= (0.9999 if key[2] == "FP32" else 0.99)
        assert 0 <= rows[key]["toy"]["accuracy"] <= 1
    assert "toy" in rows["SFace", "onnxruntime", "FP32"]
    assert "toy" not in rows["MobileFaceNet", "onnxruntime", "FP32"]
    int8 = exported / "student.int8.onnx"
    assert rows["this model", "onnxruntime", "INT8"]["bytes"] == int8.stat().st_size
    assert "student.tflite: not there" in said
    assert said.count("\n| this model |") == len(ours)


def test_nothing_exported_is_an_error_with_the_command(workplace: Path) -> None:
    with pytest.raises(FoundryError, match="no exported files; run `facefoundry export"):
        comparison.compare(workplace / "model", workplace / "empty", crops(1), [])


def row(model: str, runtime: str, precision: str, milliseconds: float) -> dict[str, Any]:
    timed = {"cpu_ms": milliseconds, "p50_ms": 99.0}
    return {"model": model, "runtime": runtime, "precision": precision, "batch_1": timed}


def test_speedups_are_within_a_runtime_and_of_the_fastest() -> None:
    rows = [
        row("this model", "onnxruntime", "FP32", 2.0),
        row("this model", "onnxruntime", "INT8", 1.0),
        row("this model", "OpenVINO", "FP32", 3.0),
        row("this model", "OpenVINO", "INT8", 0.5),
        row("SFace", "onnxruntime", "FP32", 40.0),
        row("SFace", "OpenVINO", "FP32", 20.0),
    ]
    assert comparison.speedups(rows) == {
        "onnxruntime": {"this model FP32": 2.0, "SFace FP32": 40.0},
        "OpenVINO": {"this model FP32": 6.0, "SFace FP32": 40.0},
        "fastest": {"this model FP32": 4.0, "SFace FP32": 40.0},
    }


def test_peers_are_what_people_use_today(tmp_path: Path) -> None:
    found = list(comparison.peers(tmp_path, threads=1))
    shapes = {entry.model: entry.run(to_input(crops(1))).shape for entry in found}
    assert shapes == {"SFace": (1, 128), "MobileFaceNet": (1, 512)}
    assert [entry.runtime for entry in found] == 2 * ["onnxruntime", "OpenVINO"]
    assert all(entry.bytes > 1_000_000 for entry in found)


def commands_of(page: Path) -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    return [shlex.split(line) for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("command", commands_of(ROOT / "docs/edge.md"), ids=" ".join)
def test_every_command_of_the_page_is_one(command: list[str]) -> None:
    """Its options, formats, stages and targets are there; what they do is tested above."""
    if command[0] == "facefoundry":
        said = CliRunner().invoke(build_app(), [command[1], "--help"]).stdout
        assert all(part in said for part in command if part.startswith("--"))
        if "--format" in command:
            assert set(command[command.index("--format") + 1].split(",")) <= set(FORMATS)
    elif command[0] == "make":
        assert re.search(rf"^{command[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
    elif command[1] == "-m":
        conf = yaml.safe_load(
            (ROOT / f"conf/{command[2].removeprefix('stages.')}.yaml").read_text()
        )
        keys = [part.split("=")[0].split(".") for part in command[3:]]
        assert all(key in conf[group] for group, key in keys)
    else:
        text = (ROOT / command[1]).read_text()
        assert all(f'"{part}"' in text for part in command if part.startswith("--"))
