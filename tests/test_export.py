from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hosts import HOSTS
from onnx import numpy_helper
from tiny_embedder import SIZE, SPEC, crops, tiny_backbone
from torch import nn

from facefoundry.backbones import BACKBONES, build_backbone
from facefoundry.errors import FoundryError
from facefoundry.export import (
    check_parity,
    cosines,
    embed,
    embed_torch,
    export_onnx,
    load_onnx,
    open_session,
    read_metadata,
    to_input,
)
from facefoundry.insightface_package import write_insightface_package
from facefoundry.model_dir import load_model, save_model
from facefoundry.onnx_half import write_fp16

BACKBONE = tiny_backbone()
FACES = crops(5)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "student.onnx"
    export_onnx(BACKBONE, SPEC, path)
    return path


def parity(found: np.ndarray) -> float:
    return float(cosines(embed_torch(BACKBONE, FACES), found.reshape(len(FACES), SIZE)).min())


def test_parity_in_onnxruntime_at_any_batch_size(exported: Path) -> None:
    assert check_parity(BACKBONE, exported, FACES)["min"] >= 0.9999
    one_by_one = embed(open_session(exported), FACES, batch=1)
    np.testing.assert_allclose(one_by_one, embed(open_session(exported), FACES), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(one_by_one, axis=1), 1.0, atol=1e-5)


@pytest.mark.parametrize("host", HOSTS)
def test_parity_in_every_host(exported: Path, host: Callable[[Path, np.ndarray], np.ndarray]):
    assert parity(host(exported, FACES)) >= 0.9999


def test_insightface_finds_the_preprocessing_where_it_looks(exported: Path) -> None:
    """The rule of `insightface.model_zoo.ArcFaceONNX`: names among the first eight nodes."""
    names = [node.name for node in onnx.load(exported).graph.node[:8]]
    assert any(name.startswith("Sub") for name in names)
    assert any(name.startswith("Mul") for name in names)


def test_graph_is_what_old_runtimes_read(exported: Path) -> None:
    model = load_onnx(exported)
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"BatchNormalization", "LpNormalization", "Shape", "Identity"}
    assert [entry.version for entry in model.opset_import] == [13]
    assert [node.op_type for node in model.graph.node][-2:] == ["ReduceL2", "Div"]


def test_metadata_carries_the_spec(exported: Path) -> None:
    properties = ort.InferenceSession(str(exported)).get_modelmeta().custom_metadata_map
    assert properties["architecture"] == "tiny"
    assert json.loads(properties["licences"]) == SPEC.licences
    assert json.loads(properties["thresholds"]) == SPEC.thresholds
    assert read_metadata(exported)["provenance"] == SPEC.provenance


def test_export_is_deterministic_and_leaves_the_backbone_alone(
    exported: Path, tmp_path: Path
) -> None:
    backbone = deepcopy(BACKBONE).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    export_onnx(backbone, SPEC, tmp_path / "again.onnx")
    assert (tmp_path / "again.onnx").read_bytes() == exported.read_bytes()
    assert backbone.training
    for name, value in backbone.state_dict().items():
        assert (value == before[name]).all()


def test_a_dense_layer_with_a_bias_is_folded_too(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    assert isinstance(backbone, nn.Sequential)
    backbone[-2] = nn.Linear(32, SIZE)
    export_onnx(backbone, SPEC, tmp_path / "bias.onnx")
    assert check_parity(backbone, tmp_path / "bias.onnx", FACES)["min"] >= 0.9999


def test_fp16_is_close_and_keeps_float_ends(exported: Path, tmp_path: Path) -> None:
    write_fp16(exported, tmp_path / "half.onnx")
    assert parity(embed(open_session(tmp_path / "half.onnx"), FACES)) >= 0.999
    halved = load_onnx(tmp_path / "half.onnx").graph.initializer
    types = {v.name: numpy_helper.to_array(v).dtype for v in halved}
    assert types.pop("mean") == types.pop("scale") == np.float32
    assert set(types.values()) == {np.dtype(np.float16)}


@pytest.mark.parametrize(
    ("shape", "kind"),
    [
        ((2, 96, 96, 3), np.uint8),
        ((2, 3, 112, 112), np.uint8),
        ((2, 112, 112, 3), np.float32),
        ((0, 112, 112, 3), np.uint8),
    ],
)
def test_crops_that_are_not_aligned_faces(shape: tuple[int, ...], kind: type) -> None:
    with pytest.raises(FoundryError, match="crops"):
        to_input(np.zeros(shape, kind))


@pytest.mark.parametrize("change", ["opset", "input", "output", "junk", "truncated", "missing"])
def test_a_file_that_is_not_ours(exported: Path, tmp_path: Path, change: str) -> None:
    path = tmp_path / "other.onnx"
    model = onnx.load(exported)
    if change == "opset":
        model.opset_import[0].version = 21
    elif change == "input":
        model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 96
    elif change == "output":
        model.graph.output.append(onnx.helper.make_tensor_value_info("raw", 1, ["N", SIZE]))
    content = model.SerializeToString()
    if change != "missing":
        path.write_bytes({"junk": b"\x00junk", "truncated": content[:-400]}.get(change, content))
    with pytest.raises(FoundryError, match=r"other\.onnx") as caught:
        load_onnx(path)
    assert "\n" not in str(caught.value)


def test_metadata_of_a_foreign_file(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(exported)
    model.ClearField("metadata_props")
    onnx.save(model, tmp_path / "foreign.onnx")
    with pytest.raises(FoundryError, match=r"foreign\.onnx: not exported by facefoundry"):
        read_metadata(tmp_path / "foreign.onnx")


def test_insightface_package_names_what_the_graph_is(exported: Path, tmp_path: Path) -> None:
    write_insightface_package(exported, tmp_path / "package", "tiny")
    manifest = json.loads((tmp_path / "package/manifest.json").read_text())
    task = manifest["tasks"]["recognition"]
    assert (tmp_path / "package" / task["file"]).read_bytes() == exported.read_bytes()
    assert task["sha256"] == hashlib.sha256(exported.read_bytes()).hexdigest()
    assert task["preprocessing"] == "embedded"
    assert task["embedding_dimension"] == SIZE
    assert "weights: Apache-2.0" in (tmp_path / "package/MODEL.LICENSE").read_text()


def test_equal_weights_are_no_obstacle(tmp_path: Path) -> None:
    """PyTorch exports two PReLU of the same slope as one weight and an Identity."""
    backbone = tiny_backbone()
    assert isinstance(backbone, nn.Sequential)
    backbone[2], backbone[6] = nn.PReLU(1), nn.PReLU(1)
    path = tmp_path / "equal.onnx"
    export_onnx(backbone, SPEC, path)
    assert "Identity" not in {node.op_type for node in load_onnx(path).graph.node}
    assert check_parity(backbone, path, FACES)["min"] >= 0.9999


class Viewing(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.view(x.size(0), -1)


def test_a_backbone_that_reshapes_by_size_is_refused(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    assert isinstance(backbone, nn.Sequential)
    backbone[-3] = Viewing()
    with pytest.raises(FoundryError, match=r"tiny: reshapes by x.size.*use torch.flatten"):
        export_onnx(backbone, SPEC, tmp_path / "never.onnx")
    assert not (tmp_path / "never.onnx").exists()


@pytest.mark.parametrize("architecture", sorted(BACKBONES))
def test_every_backbone_through_its_model_directory(architecture: str, tmp_path: Path) -> None:
    spec = replace(SPEC, architecture=architecture)
    save_model(tmp_path, build_backbone(architecture, embedding_size=SIZE), spec)
    backbone, loaded = load_model(tmp_path)
    export_onnx(backbone, loaded, tmp_path / "student.onnx")
    assert check_parity(backbone, tmp_path / "student.onnx", FACES)["min"] >= 0.9999
    kinds = {node.op_type for node in load_onnx(tmp_path / "student.onnx").graph.node}
    if architecture != "iresnet":  # it normalises before its convolutions: nothing to fold into
        assert "BatchNormalization" not in kinds
