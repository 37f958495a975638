"""The one face of a photo, found and cut as in training, or a reason why not."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np

from facefoundry.alignment import Detection, Detector, warp
from facefoundry.errors import FoundryError
from facefoundry.images import Image, decode_image, encode_jpeg, read_image, resize

Photo = Path | str | bytes | Image  # a file, its content, or (H, W, 3) uint8 RGB

MIN_FACE_PIXELS = 40  # the width of a face that still has a third of the template's detail
BYSTANDER = 0.25  # a face of less than this share of the subject's area stands in the background

# A larger photo is searched at this size: YuNet finds faces of 10 to 300 pixels and takes a larger
# one for several; time and memory are bounded as well.
DETECTION_SIDE = 640

_of_thread = threading.local()


class FaceError(FoundryError):
    """A photo without one usable face. `code`: no_face, several_faces or small_face."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def detect(image: Image) -> list[Detection]:
    """All faces of (H, W, 3) uint8 RGB, most prominent first, in pixels of the image."""
    if not hasattr(_of_thread, "detector"):  # OpenCV's keeps the size of its input: one per thread
        _of_thread.detector = Detector()
    height, width = image.shape[:2]
    scale = max(height, width) / DETECTION_SIDE
    if scale <= 1:
        return _of_thread.detector.detect(image)
    small = resize(image, max(1, round(width / scale)), max(1, round(height / scale)))
    return [
        Detection(
            box=(
                face.box[0] * scale,
                face.box[1] * scale,
                face.box[2] * scale,
                face.box[3] * scale,
            ),
            landmarks=face.landmarks * np.float32(scale),
            score=face.score,
        )
        for face in _of_thread.detector.detect(small)
    ]


def read_photo(photo: Photo, name: str = "image") -> tuple[Image, str]:
    """(H, W, 3) uint8 RGB and the name for messages. Raises FoundryError; see `images`."""
    if isinstance(photo, bytes):
        return decode_image(photo, name), name
    if isinstance(photo, (str, Path)):
        return read_image(Path(photo)), str(photo)
    return photo, name


def photo_file(photo: Photo) -> bytes:
    """The photo as an image file: as it was given, or a JPEG of the pixels."""
    if isinstance(photo, bytes):
        return photo
    if isinstance(photo, (str, Path)):
        return Path(photo).read_bytes()
    return encode_jpeg(photo)


def find_face(image: Image, name: str) -> Detection:
    """The subject of the photo. Raises FaceError for no face, several, or one too small."""
    found = detect(image)
    if not found:
        message = f"{name}: no face found; use a photo with the face upright and lit"
        raise FaceError("no_face", message)
    subject = found[0]
    area = subject.box[2] * subject.box[3]
    others = [face for face in found[1:] if face.box[2] * face.box[3] >= BYSTANDER * area]
    if others:
        message = f"{name}: {len(others) + 1} faces; crop the photo to one of them"
        raise FaceError("several_faces", message)
    if subject.box[2] < MIN_FACE_PIXELS:
        message = (
            f"{name}: the face is {subject.box[2]:.0f} pixels wide, less than {MIN_FACE_PIXELS};"
            " use a larger or closer photo"
        )
        raise FaceError("small_face", message)
    return subject


def face_crop(photo: Photo, name: str = "image") -> Image:
    """The aligned (112, 112, 3) uint8 RGB crop of the one face of a photo. Raises FoundryError."""
    image, name = read_photo(photo, name)
    return warp(image, find_face(image, name).landmarks)
