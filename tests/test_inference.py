"""The recognizer: one answer from every runtime, the table's thresholds, and plain refusals."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_tensorrt import FakeCuda, fake_tensorrt
from PIL import Image as PillowImage
from tiny_embedder import SPEC
from toy_service import KEY, PLACES, THRESHOLDS, jpeg, photo, save_photos, toy_model, toy_recognizer

from facefoundry import backends, faces, inference
from facefoundry.backbones import build_backbone
from facefoundry.bundle import tensorrt_api
from facefoundry.errors import FoundryError
from facefoundry.faces import face_crop
from facefoundry.gallery.crypto import KEY_VARIABLE
from facefoundry.inference import Recognizer, find_model
from facefoundry.model_dir import ModelSpec, save_model
from facefoundry.onnx_file import embed, open_session
from facefoundry.thresholds import default_fmr, one_in, parse_fmr, threshold_at_fmr


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("inference")


@pytest.fixture(scope="module")
def recognizer(directory: Path) -> Recognizer:
    return toy_recognizer(directory)


@pytest.fixture(scope="module")
def photos(directory: Path) -> dict[str, Path]:
    return save_photos(directory / "photos")


def test_an_embedding_is_that_of_the_crop_and_its_mirror_image(
    recognizer: Recognizer, directory: Path
) -> None:
    crop = face_crop(photo("Ada"))
    session = open_session(directory / "model.onnx")
    both = embed(session, np.stack([crop, crop[:, ::-1]])).sum(axis=0)
    found = recognizer.embed([photo("Ada")])
    assert found.shape == (1, 32) and found[0] == pytest.approx(
        both / np.linalg.norm(both), abs=1e-5
    )


def test_paths_bytes_and_arrays_are_the_same_photo(
    recognizer: Recognizer, photos: dict[str, Path]
) -> None:
    path = photos["Ada"]
    pixels = np.asarray(PillowImage.open(path))
    rows = recognizer.embed([path, str(path), path.read_bytes(), pixels])
    assert np.abs(rows - rows[0]).max() < 1e-6


def test_verify_holds_the_similarity_against_the_table(recognizer: Recognizer) -> None:
    same = recognizer.verify(jpeg("Ada"), jpeg("Ada", side=280, quality=70))
    assert same.same and same.similarity >= same.threshold == 0.75 and same.fmr == 1e-4
    other = recognizer.verify(jpeg("Ada"), jpeg("Bela"))
    assert not other.same
    lax = recognizer.verify(jpeg("Ada"), jpeg("Cleo"), fmr=1e-2)
    strict = recognizer.verify(jpeg("Ada"), jpeg("Cleo"), fmr=1e-3)
    assert lax.similarity == strict.similarity and (lax.same, strict.same) == (True, False)


def test_identify_names_the_known_and_says_unknown(recognizer: Recognizer) -> None:
    for name in ("Ada", "Bela", "Cleo"):
        found = recognizer.identify(jpeg(name, side=280), k=3)
        assert found.name == name == found.candidates[0].name and len(found.candidates) == 3
    stranger = recognizer.identify(jpeg("Dora"), k=2)
    assert stranger.name is None and len(stranger.candidates) == 2
    assert stranger.fpir == pytest.approx(1 - (1 - 1e-4) ** 3)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none", "no face found"),
        ("two", "2 faces; crop the photo to one"),
        ("small", r"the face is \d+ pixels wide, less than 40"),
        ("text", "not a readable"),
    ],
)
def test_a_bad_photo_is_named_and_changes_nothing(
    recognizer: Recognizer, photos: dict[str, Path], name: str, message: str
) -> None:
    before = recognizer.gallery.identities()
    with pytest.raises(FoundryError, match=rf"{name}\.jpg: {message}"):
        recognizer.enroll("Zora", [photos["Ada"], photos[name]])
    assert recognizer.gallery.identities() == before


def test_animations_and_cut_files_are_refused(recognizer: Recognizer, tmp_path: Path) -> None:
    frames = [PillowImage.fromarray(photo(name)) for name in ("Ada", "Bela")]
    for suffix in ("webp", "png"):
        path = tmp_path / f"moving.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:])
        with pytest.raises(FoundryError, match="an animation or several pages"):
            recognizer.embed([path])
    with pytest.raises(FoundryError, match="not a readable"):
        recognizer.embed([jpeg("Ada")[:2000]])


def test_a_camera_held_sideways_is_followed(recognizer: Recognizer, tmp_path: Path) -> None:
    upright = PillowImage.fromarray(photo("Ada"))
    exif = PillowImage.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    path = tmp_path / "sideways.png"
    upright.rotate(90).save(path, exif=exif)
    assert recognizer.embed([path])[0] @ recognizer.embed([photo("Ada")])[0] > 0.999


def test_a_large_photo_is_searched_at_a_smaller_size() -> None:
    small, large = (faces.find_face(photo("Ada", side), "Ada") for side in (640, 2560))
    assert np.abs(large.landmarks / 4 - small.landmarks).max() < 10
    assert large.box[2] / 4 == pytest.approx(small.box[2], rel=0.05)


def test_a_bystander_is_no_second_face(recognizer: Recognizer) -> None:
    scene = np.full((336, 500, 3), 127, np.uint8)
    scene[:, :336] = photo("Ada")
    scene[100:196, 380:476] = photo("Bela", 96)
    assert len(faces.detect(scene)) == 2
    assert recognizer.identify(scene).name == "Ada"


@pytest.mark.parametrize("backend", ["openvino", "opencv"])
def test_every_runtime_gives_the_same_embedding(
    recognizer: Recognizer, directory: Path, backend: str
) -> None:
    other = Recognizer(directory / "model.onnx", backend=backend, threads=1)
    pair = [photo("Ada"), photo("Bela")]
    cosine = (recognizer.embed(pair) * other.embed(pair)).sum(axis=1)
    assert cosine.min() > 0.9999
    assert other.model.digest == recognizer.model.digest


def test_tensorrt_builds_and_runs_its_engine(
    recognizer: Recognizer, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_tensorrt_module", lambda: fake_tensorrt("10.3"))
    monkeypatch.setattr(tensorrt_api, "Cuda", FakeCuda)
    other = Recognizer(directory / "model.onnx", backend="tensorrt")
    many = [photo("Ada")] * 17  # more than one batch of the engine
    cosine = other.embed(many) @ recognizer.embed([photo("Ada")])[0]
    assert cosine.min() > 0.9999


def test_a_runtime_that_is_not_here(directory: Path) -> None:
    with pytest.raises(FoundryError, match="backend 'tflite': unknown; choose one of onnxruntime"):
        Recognizer(directory / "model.onnx", backend="tflite")


def test_a_model_directory_without_onnx_runs_in_pytorch(tmp_path: Path) -> None:
    arguments = {"widths": [8, 8, 8], "blocks": [1, 1, 1], "head": 8}
    backbone = build_backbone("small_resnet", embedding_size=16, **arguments).eval()
    spec = ModelSpec("small_resnet", 16, arguments, thresholds=THRESHOLDS)
    save_model(tmp_path / "trained", backbone, spec)
    trained = Recognizer(tmp_path / "trained")
    assert trained.model.size == 16
    assert np.linalg.norm(trained.embed([photo("Ada")])) == pytest.approx(1, abs=1e-5)


def test_a_name_means_a_pretrained_model(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inference, "PRETRAINED", tmp_path)
    with pytest.raises(FoundryError, match=r"clean: no model there.*none is here"):
        find_model("clean")
    (tmp_path / "clean").mkdir()
    (tmp_path / "clean" / "model.int8.onnx").write_bytes(b"")
    (tmp_path / "clean" / "model.onnx").write_bytes((directory / "model.onnx").read_bytes())
    assert find_model("clean") == tmp_path / "clean" / "model.onnx"
    with pytest.raises(FoundryError, match=r"distilled: no model there.*\(clean\)"):
        find_model("distilled")


def test_a_gallery_of_another_model_is_refused(
    recognizer: Recognizer, directory: Path, tmp_path: Path
) -> None:
    other = toy_model(tmp_path / "other.onnx", seed=1)
    before = recognizer.gallery.count()
    with pytest.raises(FoundryError, match=r"gallery\.db: made by model .* not by"):
        Recognizer(other, directory / "gallery.db", key_file=directory / "gallery.key")
    assert recognizer.gallery.count() == before


def test_the_key_in_the_environment_wins(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    absent = tmp_path / "absent.key"
    opened = Recognizer(directory / "model.onnx", directory / "gallery.db", key_file=absent)
    assert opened.gallery.count()[0] == 3 and not absent.exists()


def test_thresholds_come_from_the_table() -> None:
    assert threshold_at_fmr(THRESHOLDS, 1e-3) == 0.65
    with pytest.raises(
        FoundryError, match=r"of 1 in 1,000,000; choose from: 1 in 10,000, 1 in 1,000"
    ):
        threshold_at_fmr(THRESHOLDS, 1e-6)
    assert default_fmr(THRESHOLDS) == 1e-4
    assert default_fmr(THRESHOLDS[2:]) == 1e-2
    with pytest.raises(FoundryError, match="no thresholds"):
        default_fmr(SPEC.thresholds[:0])


@pytest.mark.parametrize("text", ["1 in 10,000", "1/10000", "1e-4", "0.0001", " 1 in 10 000 "])
def test_a_rate_in_words(text: str) -> None:
    assert parse_fmr(text) == pytest.approx(1e-4) and one_in(parse_fmr(text)) == "1 in 10,000"


@pytest.mark.parametrize("text", ["0", "1", "-1e-4", "often", "1 in 0", "nan"])
def test_no_rate(text: str) -> None:
    with pytest.raises(FoundryError, match="not a false-match rate"):
        parse_fmr(text)


def test_inference_needs_no_training_library() -> None:
    code = (
        "import sys, facefoundry.inference, facefoundry.service.app;"
        "heavy = {'torch', 'mlflow', 'hydra', 'pytorch_lightning', 'sklearn', 'pyarrow'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_place_has_a_face() -> None:
    assert all(face_crop(photo(name)).shape == (112, 112, 3) for name in PLACES)
