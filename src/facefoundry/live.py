"""Faces in a camera's or a video's frames: names on boxes, and guided enrolment.

OpenCV's headless build has no windows, so the picture is shown in a browser: `live_preview`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from facefoundry.alignment import Detection, Landmarks, warp
from facefoundry.errors import FoundryError
from facefoundry.faces import MIN_FACE_PIXELS, FaceError, detect, find_face
from facefoundry.images import Image
from facefoundry.inference import Recognizer
from facefoundry.live_preview import Preview

KNOWN, UNKNOWN = (63, 208, 176), (255, 169, 77)  # RGB
SMOOTHING = 0.9  # of the frame rate that is shown
MIN_SHARPNESS = 20.0  # variance of the Laplacian of the grey crop
STRAIGHT, TURNED, PROFILE = 0.12, 0.18, 0.7  # nose offset over eye distance

Show = Callable[[Image], None]


@dataclass(frozen=True)
class Pose:
    """What `capture` asks for: nose offset over eye distance within `low`..`high`."""

    request: str
    low: float
    high: float


POSES = (
    Pose("look straight at the camera", -STRAIGHT, STRAIGHT),
    Pose("turn your head a little to your left", TURNED, PROFILE),
    Pose("turn your head a little to your right", -PROFILE, -TURNED),
)


def read_frames(source: str) -> Iterator[Image]:
    """RGB frames of a camera (its number) or a video file. Raises FoundryError for neither."""
    video = cv2.VideoCapture(int(source) if source.isdigit() else source)
    if not video.isOpened():
        raise FoundryError(f"{source}: no camera of that number, and no video file; give another")
    try:
        while (frame := video.read())[0]:
            yield cv2.cvtColor(frame[1], cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False)
    finally:
        video.release()


def name_faces(
    recognizer: Recognizer, image: Image, fmr: float | None
) -> list[tuple[Detection, str | None]]:
    """Every face that is large enough, with its identity or None for an unknown one."""
    found = [face for face in detect(image) if face.box[2] >= MIN_FACE_PIXELS]
    if not found:
        return []
    probes = recognizer.embed_crops([warp(image, face.landmarks) for face in found])
    names = [recognizer.identify_embedding(probe, 1, fmr).name for probe in probes]
    return list(zip(found, names, strict=True))


def draw(image: Image, faces: list[tuple[Detection, str | None]], caption: str) -> Image:
    """A copy of (H, W, 3) uint8 RGB with boxes, names and a caption in the corner."""
    picture = PillowImage.fromarray(image)
    pen = ImageDraw.Draw(picture)
    font = ImageFont.load_default(max(12, image.shape[0] // 30))
    for face, name in faces:
        x, y, width, height = face.box
        colour = UNKNOWN if name is None else KNOWN
        pen.rectangle((x, y, x + width, y + height), outline=colour, width=3)
        pen.text((x, y + height + 4), name or "unknown", colour, font)
    pen.text((8, 6), caption, (255, 255, 255), font, stroke_width=2, stroke_fill=(0, 0, 0))
    return np.asarray(picture)


def watch(
    recognizer: Recognizer, frames: Iterator[Image], show: Show, fmr: float | None = None
) -> Iterator[tuple[list[str | None], float]]:
    """Name the faces of each frame, show it, and yield (names, frames per second)."""
    rate, last = 0.0, time.perf_counter()
    for image in frames:
        faces = name_faces(recognizer, image, fmr)
        now = time.perf_counter()
        current = 1 / max(now - last, 1e-6)
        rate = current if rate == 0 else SMOOTHING * rate + (1 - SMOOTHING) * current
        last = now
        show(draw(image, faces, f"{rate:.1f} FPS"))
        yield [name for _, name in faces], rate


def nose_offset(landmarks: Landmarks) -> float:
    """The nose's distance from the middle of the eyes along their line, over the eyes' distance;
    positive when the head turns to its own left (to the right of the picture)."""
    eyes = landmarks[1] - landmarks[0]
    middle = (landmarks[0] + landmarks[1]) / 2
    return float((landmarks[2] - middle) @ eyes / (eyes @ eyes))


def objection(image: Image, pose: Pose) -> str | None:
    """What is wrong with a frame for enrolment in that pose, as an instruction, or None."""
    try:
        face = find_face(image, "camera")
    except FaceError as error:
        return {
            "no_face": "move into the picture",
            "several_faces": "only one face, please",
            "small_face": "come closer",
        }[error.code]
    if not pose.low <= nose_offset(face.landmarks) <= pose.high:
        return pose.request
    grey = cv2.cvtColor(warp(image, face.landmarks), cv2.COLOR_RGB2GRAY)
    if cv2.Laplacian(grey, cv2.CV_64F).var() < MIN_SHARPNESS:
        return "hold still, and find more light"
    return None


def capture(frames: Iterator[Image], show: Show, say: Callable[[str], None]) -> list[Image]:
    """One good frame for each of POSES, guided by `say` and on the picture.

    Raises FoundryError where the frames end before that."""
    taken: list[Image] = []
    said = ""
    for image in frames:
        pose = POSES[len(taken)]
        wrong = objection(image, pose)
        show(draw(image, [], wrong or pose.request))
        if wrong is None:
            taken.append(image)
            said = f"{len(taken)} of {len(POSES)} taken"
            say(said)
        elif wrong != said:
            said = wrong
            say(said)
        if len(taken) == len(POSES):
            return taken
    raise FoundryError(
        f"the pictures ended after {len(taken)} of {len(POSES)} poses; nothing was enrolled, try"
        " again with the face in the light"
    )


class Screen:
    """Where pictures are shown: a browser on this machine and, if asked, a video file."""

    def __init__(self, port: int, save: Path | None, say: Callable[[str], None]) -> None:
        self._preview = Preview(port)
        self._video = VideoFile(save) if save else None
        say(f"live picture: {self._preview.address}")

    def __enter__(self) -> Show:
        return self._show

    def _show(self, image: Image) -> None:
        self._preview.show(image)
        if self._video:
            self._video.show(image)

    def __exit__(self, *error: object) -> None:
        self._preview.close()
        if self._video:
            self._video.close()


class VideoFile:
    """A video of what was shown; `show` takes frames of one size. Motion JPEG, in .avi."""

    def __init__(self, path: Path, frames_per_second: float = 15.0) -> None:
        if path.suffix != ".avi":
            raise FoundryError(f"{path}: the video is Motion JPEG; give a name that ends in .avi")
        self._path, self._rate = path, frames_per_second
        self._writer: cv2.VideoWriter | None = None

    def show(self, image: Image) -> None:
        if self._writer is None:
            code = cv2.VideoWriter.fourcc(*"MJPG")
            size = (image.shape[1], image.shape[0])
            self._writer = cv2.VideoWriter(str(self._path), code, self._rate, size)
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))

    def close(self) -> None:
        if self._writer is not None:
            self._writer.release()
