"""The programs that take our ONNX file as it is: each gives (N, size) embeddings of aligned crops.

InsightFace 2 is no dependency: `make hosts` installs it, and its tests are skipped without it.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import openvino
import pytest

from facefoundry.insightface_package import write_insightface_package
from facefoundry.onnx_file import embed, open_session, to_input


def by_onnxruntime(path: Path, crops: np.ndarray) -> np.ndarray:
    return embed(open_session(path), crops)


def by_opencv_dnn(path: Path, crops: np.ndarray) -> np.ndarray:
    net = cv2.dnn.readNetFromONNX(str(path))
    net.setInput(to_input(crops))
    return net.forward()


def by_opencv_face_recognizer(path: Path, crops: np.ndarray) -> np.ndarray:
    recognizer = cv2.FaceRecognizerSF.create(str(path), "")
    return np.concatenate([recognizer.feature(crop) for crop in bgr(crops)])


def by_openvino(path: Path, crops: np.ndarray) -> np.ndarray:
    # some CPUs would choose bfloat16, whose rounding says nothing of the file
    exact = {"INFERENCE_PRECISION_HINT": "f32"}
    return openvino.Core().compile_model(str(path), "CPU", exact)([to_input(crops)])[0]


def by_insightface(path: Path, crops: np.ndarray) -> np.ndarray:
    zoo = pytest.importorskip("insightface.model_zoo")
    return np.reshape(zoo.get_model(str(path)).get_feat(bgr(crops)), (len(crops), -1))


def by_insightface_package(path: Path, crops: np.ndarray) -> np.ndarray:
    zoo = pytest.importorskip("insightface.model_zoo")
    with TemporaryDirectory() as folder:
        write_insightface_package(path, Path(folder) / "package", "ours")
        model = zoo.get_model(str(Path(folder) / "package"), model_task="recognition")
        return np.reshape(model.get_feat(bgr(crops)), (len(crops), -1))


def bgr(crops: np.ndarray) -> list[np.ndarray]:
    return [np.ascontiguousarray(crop[..., ::-1]) for crop in crops]


HOSTS: list[Callable[[Path, np.ndarray], np.ndarray]] = [
    by_onnxruntime,
    by_opencv_dnn,
    by_opencv_face_recognizer,
    by_openvino,
    by_insightface,
    by_insightface_package,
]
