"""The models that are shipped: small, whole, licensed as they say, and able to tell faces apart."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from hosts import HOSTS
from onnx.reference import ReferenceEvaluator

from facefoundry.alignment import Detector, warp
from facefoundry.export import check_parity, cosines
from facefoundry.images import read_image
from facefoundry.inference import Recognizer
from facefoundry.licences import enforce
from facefoundry.model_dir import CARD, load_model, read_spec
from facefoundry.onnx_file import read_metadata, to_input
from facefoundry.release import FILES, LIMITS

MODELS = sorted(path.parent.name for path in (ROOT / "pretrained").glob("*/model.onnx"))


@cache
def faces() -> tuple[np.ndarray, np.ndarray]:
    """Crops of the README picture, (N, 112, 112, 3), and for each its row: the identity."""
    sheet = read_image(ROOT / "docs/faces.jpg")
    found = Detector().detect(sheet)
    crops = [warp(sheet, face.landmarks) for face in found]
    heights = np.array([face.landmarks[:, 1].mean() for face in found])
    return np.stack(crops), (heights // 112).astype(int)


def test_something_is_shipped():
    assert "clean" in MODELS


@pytest.mark.parametrize("name", MODELS)
def test_the_files_are_small_and_carry_their_spec(name: str):
    folder = ROOT / "pretrained" / name
    for source, copy in FILES.items():
        assert (folder / copy).stat().st_size <= LIMITS[source]
        assert read_metadata(folder / copy)["thresholds"]
    assert "## Figures" in (folder / CARD).read_text()
    assert (folder / "params.yaml").is_file()


@pytest.mark.parametrize("name", MODELS)
def test_the_recognizer_tells_identities_apart(name: str):
    crops, rows = faces()
    embeddings = Recognizer(name).embed_crops(list(crops))
    similarity = embeddings @ embeddings.T
    left, right = np.triu_indices(len(rows), k=1)
    same = rows[left] == rows[right]
    scores = similarity[left, right]
    assert len(set(rows)) > 3
    assert scores[same].mean() > scores[~same].mean() + 0.2


@pytest.mark.parametrize("name", MODELS)
def test_the_weights_to_go_on_from_are_those_of_the_file(name: str):
    folder = ROOT / "pretrained" / name
    backbone, _ = load_model(folder)
    assert check_parity(backbone, folder / "model.onnx", faces()[0])["min"] >= 0.99999


@cache
def by_definition(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Crops, and their embeddings by ONNX's own reference, which is written in numpy."""
    crops = faces()[0][:4]
    model = ReferenceEvaluator(str(path))
    return crops, np.asarray(model.run(None, {model.input_names[0]: to_input(crops)})[0])


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("name", MODELS)
def test_every_host_takes_the_file_as_it_is(
    name: str, host: Callable[[Path, np.ndarray], np.ndarray]
):
    path = ROOT / "pretrained" / name / "model.onnx"
    crops, expected = by_definition(path)
    assert cosines(expected, host(path, crops)).min() >= 0.9999


@pytest.mark.parametrize("name", MODELS)
def test_int8_stays_close_to_fp32(name: str):
    crops, _ = faces()
    folder = ROOT / "pretrained" / name
    fp32, int8 = (Recognizer(folder / copy).embed_crops(list(crops)) for copy in FILES.values())
    assert (fp32 * int8).sum(axis=1).mean() >= 0.99


def test_the_clean_model_rests_on_no_real_face_and_may_be_sold():
    licences = read_spec(ROOT / "pretrained/clean").licences
    assert licences
    enforce("no-real-faces", licences)
    enforce("commercial", licences)


@pytest.mark.skipif("distilled" not in MODELS, reason="no distilled model is shipped")
def test_the_distilled_model_names_its_teacher():
    licences = read_spec(Path(ROOT / "pretrained/distilled")).licences
    assert any("SFace" in entry["name"] and "teach" in entry["name"] for entry in licences)
