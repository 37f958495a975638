"""A small model with a threshold table, photos of faces, and a recognizer, for the service's tests.

The weights are random: two encodings of one photo are alike to it, two identities are not.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PillowImage
from tiny_embedder import SPEC, tiny_backbone
from torch import nn

from facefoundry.export import export_onnx
from facefoundry.faces import face_crop
from facefoundry.images import Image, encode_jpeg, read_image, resize
from facefoundry.inference import Recognizer

SHEET = Path(__file__).parents[1] / "docs/faces.jpg"
CELL = 112
KEY = "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
# (row, column) of the sheet of a well-lit frontal face, one for each identity
PLACES = {"Ada": (5, 0), "Bela": (6, 9), "Cleo": (7, 0), "Dora": (0, 5), "Emil": (3, 9)}
THRESHOLDS = [
    {"fmr": 1e-4, "threshold": 0.75, "tar": 0.8},
    {"fmr": 1e-3, "threshold": 0.65, "tar": 0.9},
    {"fmr": 1e-2, "threshold": 0.4, "tar": 0.95},  # so lax that Ada passes for Cleo (0.43)
    {"fmr": 1e-6, "threshold": None, "tar": None},
]


def photo(name: str, side: int = 336) -> Image:
    """The identity's photo, (side, side, 3) uint8 RGB."""
    row, column = PLACES[name]
    sheet = read_image(SHEET)
    cell = sheet[row * CELL : (row + 1) * CELL, column * CELL : (column + 1) * CELL]
    bigger = PillowImage.fromarray(cell).resize((side, side), PillowImage.Resampling.BICUBIC)
    return np.asarray(bigger)


def jpeg(name: str, side: int = 336, quality: int = 90) -> bytes:
    return encode_jpeg(photo(name, side), quality)


def save_photos(directory: Path) -> dict[str, Path]:
    """A file for each identity, and `two.jpg`, `none.jpg`, `small.jpg` and `text.jpg`."""
    directory.mkdir(parents=True, exist_ok=True)
    paths = {name: directory / f"{name}.jpg" for name in (*PLACES, "two", "none", "small", "text")}
    for name in PLACES:
        paths[name].write_bytes(jpeg(name))
    both = np.concatenate([photo("Ada"), photo("Cleo")], axis=1)
    paths["two"].write_bytes(encode_jpeg(both))
    paths["none"].write_bytes(encode_jpeg(np.full((200, 200, 3), 128, np.uint8)))
    small = np.full((400, 400, 3), 200, np.uint8)
    small[150:198, 150:198] = resize(photo("Ada"), 48, 48)
    paths["small"].write_bytes(encode_jpeg(small))
    paths["text"].write_text("not an image")
    return paths


class Centred(nn.Module):
    """A backbone less its mean output, so that unlike faces are not all alike."""

    def __init__(self, backbone: nn.Module, mean: torch.Tensor) -> None:
        super().__init__()
        self.backbone = backbone
        self.centre = nn.Parameter(mean, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.backbone(x) - self.centre


def toy_model(path: Path, seed: int = 0) -> Path:
    """Write the ONNX file; another seed is another model."""
    path.write_bytes(_exported(seed))
    return path


@functools.cache
def _exported(seed: int) -> bytes:
    backbone = tiny_backbone(seed)
    crops = np.stack([face_crop(photo(name)) for name in PLACES]).transpose(0, 3, 1, 2)
    with torch.inference_mode():
        mean = backbone((torch.from_numpy(crops.astype(np.float32)) - 127.5) / 127.5).mean(0)
    centred = Centred(backbone, mean.clone()).eval()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model.onnx"
        export_onnx(centred, replace(SPEC, thresholds=THRESHOLDS), path)
        return path.read_bytes()


def toy_recognizer(directory: Path) -> Recognizer:
    """Its gallery, `directory/gallery.db`, has Ada, Bela and Cleo."""
    key_file = directory / "gallery.key"
    key_file.write_text(KEY)
    model = toy_model(directory / "model.onnx")
    recognizer = Recognizer(model, directory / "gallery.db", key_file=key_file, threads=1)
    for name in ("Ada", "Bela", "Cleo"):
        recognizer.enroll(name, [jpeg(name)])
    return recognizer


class Server:
    """`facefoundry serve` as a process."""

    def __init__(self, directory: Path, *options: str) -> None:
        (directory / "gallery.key").write_text(KEY)
        model = toy_model(directory / "model.onnx")
        command = [sys.executable, "-m", "facefoundry", "serve", "--model", str(model)]
        command += ["--gallery", str(directory / "gallery.db"), "--port", "0", *options]
        command += ["--key-file", str(directory / "gallery.key"), "--threads", "1"]
        self.log = directory / "log"
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        self.address = self._wait_for(r"running on (https?://\S+)")
        found = re.search(r"shown only now: (\S+)", self.log.read_text())
        self.headers = {"Authorization": f"Bearer {found[1]}"} if found else {}
        self.key = found[1] if found else ""

    def _wait_for(self, pattern: str) -> str:
        for _ in range(600):
            if found := re.search(pattern, self.log.read_text()):
                return found[1]
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def peak_memory(self) -> int:
        """Bytes."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        found = re.search(r"VmHWM:\s+(\d+) kB", status)
        assert found
        return int(found[1]) * 1024

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)
