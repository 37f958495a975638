"""Faces in, decisions out: embed, verify and identify with a trained model, without PyTorch.

from facefoundry.inference import Recognizer

recognizer = Recognizer("models/quantize/student.onnx", gallery="gallery.db")
recognizer.enroll("Ada", ["ada-1.jpg", "ada-2.jpg"])
recognizer.identify("visitor.jpg").name   # "Ada", or None for an unknown face
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from facefoundry.backends import open_backend
from facefoundry.benchmarks import Embed, unit_embeddings
from facefoundry.errors import FoundryError
from facefoundry.faces import Photo, face_crop, photo_file
from facefoundry.gallery import Candidate, Gallery
from facefoundry.gallery.crypto import find_key
from facefoundry.images import Image
from facefoundry.onnx_file import Floats, read_metadata
from facefoundry.thresholds import default_fmr, threshold_at_fmr

PRETRAINED = Path(__file__).parents[2] / "pretrained"
KEY_FILE = Path("~/.config/facefoundry/gallery.key")
# In a model directory, the first of these that is there.
ONNX_NAMES = ("model.onnx", "student.onnx", "model.int8.onnx", "student.int8.onnx")
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Verification:
    """Are two photos of the same identity? `similarity` is the cosine, -1..1."""

    same: bool
    similarity: float
    threshold: float
    fmr: float


@dataclass(frozen=True)
class Identification:
    """`name` is the best candidate's if it reaches the threshold, or None: unknown.

    `fmr` is that of one comparison. A stranger is compared with all of the gallery, and is given
    some name with a probability of about `fpir`, 1 - (1 - fmr) ** identities.
    """

    name: str | None
    candidates: list[Candidate]
    threshold: float
    fmr: float
    fpir: float


@dataclass(frozen=True)
class Model:
    """What a recognizer needs of a model: `digest` is the sha256 of its file, `embed` maps
    (N, 112, 112, 3) uint8 RGB to (N, size), `thresholds` is the table of model.json."""

    source: Path
    digest: str
    size: int
    thresholds: list[dict[str, Any]]
    embed: Embed


def find_model(source: str | Path) -> Path:
    """The ONNX file (or the safetensors file) that `source` means: a file, a directory of a
    model, or a name under `pretrained/`. Raises FoundryError with what there is to choose."""
    path = Path(source)
    for place in (path, PRETRAINED / path):
        if place.is_file() and place.suffix == ".onnx":
            return place
        for name in (*ONNX_NAMES, WEIGHTS):
            if (place / name).is_file():
                return place / name
    shipped = sorted(path.parent.name for path in PRETRAINED.glob(f"*/{ONNX_NAMES[0]}"))
    raise FoundryError(
        f"{source}: no model there; give an .onnx file, a directory with {ONNX_NAMES[0]} or"
        f" {WEIGHTS}, or a pretrained model ({', '.join(shipped) or 'none is here'})"
    )


def open_model(source: str | Path, backend: str = "onnxruntime", threads: int = 2) -> Model:
    """Open a model for inference. Raises FoundryError for a file that is not of this package, or
    a backend that is unknown or not here."""
    path = find_model(source)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if path.name == WEIGHTS:
        return _open_weights(path, digest)
    spec = read_metadata(path)
    embed = open_backend(backend, path, threads)
    return Model(path, digest, spec["embedding_size"], spec["thresholds"], embed)


def _open_weights(path: Path, digest: str) -> Model:
    """A model that was trained and not exported runs in PyTorch, whatever the backend."""
    from facefoundry.export import embed_torch
    from facefoundry.model_dir import load_model

    backbone, spec = load_model(path.parent)
    return Model(
        path,
        digest,
        spec.embedding_size,
        spec.thresholds,
        lambda images: embed_torch(backbone, images),
    )


class Recognizer:
    """One model, and one gallery if asked for. Callable from several threads."""

    def __init__(
        self,
        source: str | Path,
        gallery: str | Path | None = None,
        *,
        backend: str = "onnxruntime",
        threads: int = 2,
        fusion: str = "mean",
        key_file: str | Path | None = None,
        keep_photos: bool = False,
    ) -> None:
        """`source`: see `find_model`. `backend`: onnxruntime, openvino, tensorrt or opencv.
        `keep_photos`: put the photos of an enrolment into the gallery, too, sealed.

        The gallery file is made where it is absent; its key comes from FACEFOUNDRY_GALLERY_KEY or
        `key_file`. Raises FoundryError for a model, gallery or key that do not fit together.
        """
        self.model, self.keep_photos = open_model(source, backend, threads), keep_photos
        self._gallery: Gallery | None = None
        if gallery is not None:
            key = find_key(Path(key_file or KEY_FILE).expanduser())
            args = (self.model.digest, self.model.size, key, fusion)
            self._gallery = Gallery(Path(gallery), *args)

    @property
    def gallery(self) -> Gallery:
        if self._gallery is None:
            raise FoundryError("no gallery: open the recognizer with gallery=FILE")
        return self._gallery

    def embed_crops(self, crops: Sequence[Image]) -> Floats:
        """(N, D) of unit length from aligned (112, 112, 3) uint8 RGB crops, with the mirror image
        of each added, as in the calibration of the thresholds."""
        return unit_embeddings(self.model.embed, np.stack(crops), True, str(self.model.source))

    def embed(self, photos: Sequence[Photo]) -> Floats:
        """(N, D) of unit length: the one face of each photo (path, bytes or (H, W, 3) RGB).

        Raises FoundryError for a photo with no face, several faces, or one too small."""
        if not len(photos):
            raise FoundryError("no photos: give at least one")
        crops = [face_crop(photo, f"photo {number}") for number, photo in enumerate(photos, 1)]
        return self.embed_crops(crops)

    def verify(self, a: Photo, b: Photo, fmr: float | None = None) -> Verification:
        """Is it the same identity, at the threshold of a false-match rate (by default 1 in 10,000,
        or the nearest in the model's table)?"""
        first, second = self.embed([a, b])
        return self.verify_embeddings(first, second, fmr)

    def verify_embeddings(
        self, first: Floats, second: Floats, fmr: float | None = None
    ) -> Verification:
        """The decision of `verify` on two embeddings (D,) of unit length."""
        fmr, threshold = self.operating_point(fmr)
        similarity = float(first @ second)
        return Verification(similarity >= threshold, similarity, threshold, fmr)

    def identify(self, photo: Photo, k: int = 1, fmr: float | None = None) -> Identification:
        """Who of the gallery is it? Up to `k` candidates, and a name only above the threshold."""
        return self.identify_embedding(self.embed([photo])[0], k, fmr)

    def identify_embedding(
        self, probe: Floats, k: int = 1, fmr: float | None = None
    ) -> Identification:
        """The decision of `identify` on an embedding (D,) of unit length."""
        fmr, threshold = self.operating_point(fmr)
        candidates = self.gallery.identify(probe, k)
        known = candidates and candidates[0].similarity >= threshold
        fpir = 1 - (1 - fmr) ** self.gallery.count()[0]
        name = candidates[0].name if known else None
        return Identification(name, candidates, threshold, fmr, fpir)

    def enroll(self, name: str, photos: Sequence[Photo], replace: bool = False) -> int:
        """Add the photos' templates to an identity; with `replace`, in place of what it has.

        Returns its number of templates. Raises FoundryError for a bad photo or name, and then
        nothing is changed. The photos are kept only by a recognizer with `keep_photos`."""
        embeddings = self.embed(photos)
        files = [photo_file(photo) for photo in photos] if self.keep_photos else []
        return self.gallery.enroll(name, embeddings, replace, files)

    def operating_point(self, fmr: float | None = None) -> tuple[float, float]:
        """(FMR, threshold) from the model's table. Raises FoundryError for a rate not in it."""
        fmr = default_fmr(self.model.thresholds) if fmr is None else fmr
        return fmr, threshold_at_fmr(self.model.thresholds, fmr)
