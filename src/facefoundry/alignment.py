"""Five landmarks and the similarity warp to the ArcFace template.

Training, evaluation and serving all go through `warp`, so that a face is cut the same way
everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from facefoundry.images import Image
from facefoundry.weights import yunet_path

Landmarks = NDArray[np.float32]

SIZE = 112
# Deng et al., "ArcFace", CVPR 2019: x, y of the viewer's left eye, right eye, nose tip, left and
# right mouth corner in the 112 x 112 crop.
TEMPLATE: Landmarks = np.array(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ],
    np.float32,
)


@dataclass(frozen=True)
class Detection:
    """box: x, y, width, height in pixels. landmarks: (5, 2). score: 0..1."""

    box: tuple[float, float, float, float]
    landmarks: Landmarks
    score: float


class Detector:
    """YuNet (Wu et al., "YuNet: A Tiny Millisecond-level Face Detector", 2023) through OpenCV."""

    def __init__(self, min_score: float = 0.6) -> None:
        level = cv2.utils.logging.getLogLevel()
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)  # a warning about targets
        self._yunet = cv2.FaceDetectorYN.create(str(yunet_path()), "", (SIZE, SIZE), min_score)
        cv2.utils.logging.setLogLevel(level)

    def detect(self, image: Image) -> list[Detection]:
        """All faces in (H, W, 3) uint8 RGB, best first (see `_prominence`)."""
        height, width = image.shape[:2]
        self._yunet.setInputSize((width, height))
        _, found = self._yunet.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        detections = [
            Detection(
                box=(float(row[0]), float(row[1]), float(row[2]), float(row[3])),
                landmarks=row[4:14].reshape(5, 2).astype(np.float32),
                score=float(row[14]),
            )
            for row in (() if found is None else found)
        ]
        return sorted(detections, key=lambda face: -_prominence(face, width, height))


def _prominence(face: Detection, width: int, height: int) -> float:
    """Area, less for a face far from the middle: the subject, not a bystander."""
    x, y, w, h = face.box
    offset = np.hypot((x + w / 2) / width - 0.5, (y + h / 2) / height - 0.5)
    return float(w * h * max(1.0 - offset, 0.05))


def similarity_transform(
    landmarks: Landmarks, template: Landmarks = TEMPLATE
) -> NDArray[np.float64]:
    """Least-squares rotation, uniform scale and shift, (2, 3), that takes `landmarks` (N, 2) to
    `template` (N, 2); no mirroring (Umeyama, PAMI 1991, in its planar, complex form)."""
    source = landmarks[:, 0] + 1j * landmarks[:, 1].astype(np.float64)
    target = template[:, 0] + 1j * template[:, 1].astype(np.float64)
    centred = source - source.mean()
    turn = np.vdot(centred, target - target.mean()) / np.vdot(centred, centred).real
    shift = target.mean() - turn * source.mean()
    return np.array(
        [[turn.real, -turn.imag, shift.real], [turn.imag, turn.real, shift.imag]], np.float64
    )


def warp(image: Image, landmarks: Landmarks, margin: int = 0) -> Image:
    """Cut (H, W, 3) uint8 RGB to the aligned (112, 112, 3) crop, or one with so many pixels more
    on each side; black outside the image."""
    matrix = similarity_transform(landmarks, TEMPLATE + np.float32(margin))
    side = SIZE + 2 * margin
    scale = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    if scale < 0.5:  # bilinear sampling would skip pixels: average them first
        image, matrix = _shrink(image, matrix, scale)
    return np.asarray(cv2.warpAffine(image, matrix, (side, side), flags=cv2.INTER_LINEAR))


def _shrink(
    image: Image, matrix: NDArray[np.float64], scale: float
) -> tuple[Image, NDArray[np.float64]]:
    """Reduce by a whole factor and give the warp of the reduced image."""
    factor = int(1 / scale)
    height, width = max(image.shape[0] // factor, 1), max(image.shape[1] // factor, 1)
    small = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    # pixel centres: x = (u + 0.5) * image width / width - 0.5
    ratio = np.array([image.shape[1] / width, image.shape[0] / height])
    reduced = matrix.copy()
    reduced[:, :2] = matrix[:, :2] * ratio
    reduced[:, 2] = matrix[:, 2] + matrix[:, :2] @ (0.5 * ratio - 0.5)
    return np.asarray(small), reduced


def warp_landmarks(landmarks: Landmarks) -> Landmarks:
    """Where the landmarks (5, 2) of the image come to lie in the crop that `warp` cuts."""
    matrix = similarity_transform(landmarks)
    return (landmarks @ matrix[:, :2].T + matrix[:, 2]).astype(np.float32)
