"""Calibration crops from a folder: drawn by the seed, and refused unless they are aligned faces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_embedder import crops

from facefoundry import calibration
from facefoundry.alignment import TEMPLATE, Detection
from facefoundry.calibration import check_aligned, choose, read_crops
from facefoundry.errors import FoundryError
from facefoundry.images import save_png


def write(folder: Path, images: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        save_png(image, folder / f"{number:03}.png")
    return folder


class Shifted:
    """A detector that finds every face `pixels` to the right of where the template has it."""

    pixels = 0.0

    def detect(self, _image: np.ndarray) -> list[Detection]:
        landmarks = TEMPLATE + np.array([self.pixels, 0.0], np.float32)
        return [Detection((0, 0, 112, 112), landmarks, 1.0)]


def test_a_folder_of_aligned_faces_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "Detector", Shifted)
    images = crops(6)
    found = read_crops(write(tmp_path / "faces", images), "train", 4, seed=0)
    assert found.shape == (4, 112, 112, 3)
    expected = choose(list(images), 4, seed=0)
    np.testing.assert_array_equal(found, np.stack(expected))
    assert len(read_crops(tmp_path / "faces", "train", 99, seed=0)) == 6


@pytest.mark.parametrize(("pixels", "fits"), [(0.0, True), (9.0, True), (14.0, False)])
def test_landmarks_decide(pixels: float, fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shifted, "pixels", pixels)
    monkeypatch.setattr(calibration, "Detector", Shifted)
    if fits:
        check_aligned(crops(3), "faces")
    else:
        with pytest.raises(FoundryError, match="faces: only 0 of 3 crops looked at are aligned"):
            check_aligned(crops(3), "faces")


def test_images_without_a_face(tmp_path: Path) -> None:
    with pytest.raises(FoundryError, match="only 0 of 5 crops") as caught:
        read_crops(write(tmp_path / "noise", crops(5)), "train", 5, seed=0)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((0, 112, 112, 3), np.uint8), "no manifest.parquet and no images"),
        (np.zeros((1, 250, 250, 3), np.uint8), r"000\.png: 250x250 pixels, not an aligned crop"),
    ],
)
def test_a_folder_that_cannot_calibrate(tmp_path: Path, images: np.ndarray, message: str) -> None:
    with pytest.raises(FoundryError, match=message):
        read_crops(write(tmp_path / "bad", images), "train", 5, seed=0)
