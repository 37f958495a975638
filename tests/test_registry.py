"""The model in MLflow's registry: found by its alias, loaded from code, served over HTTP."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import mlflow
import numpy as np
import pytest
from toy_service import photo, toy_model

from facefoundry.errors import FoundryError
from facefoundry.faces import face_crop
from facefoundry.inference import Recognizer
from facefoundry.registry import register


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Iterator[Path]:
    """A directory with a model, registered twice in a database of its own."""
    directory = tmp_path_factory.mktemp("registry")
    shutil.copy(empty_mlflow, directory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{directory}/mlflow.db")
        patch.chdir(directory)
        toy_model(directory / "model.onnx")
        assert [register("model.onnx"), register("model.onnx")] == [1, 2]
        yield directory


def test_the_champion_gives_the_recognizers_embeddings(
    registered: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    model = mlflow.pyfunc.load_model("models:/facefoundry@champion")
    crops = np.stack([face_crop(photo(name)) for name in ("Ada", "Bela")])
    expected = Recognizer(registered / "model.onnx").embed_crops(crops)
    assert model.predict(crops) == pytest.approx(expected, abs=1e-6)
    assert mlflow.MlflowClient().get_model_version_by_alias("facefoundry", "champion").version == 2
    assert not list(registered.rglob("*.pkl"))


def test_mlflow_serves_it(registered: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["-m", "models:/facefoundry@champion", "--port", address.split(":")[1]]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # of its uvicorn
    server = subprocess.Popen(command, start_new_session=True, env=os.environ | {"PATH": path})
    try:
        crop = face_crop(photo("Ada"))
        body = json.dumps({"inputs": crop[None].tolist()}).encode()
        answer = json.loads(post_until_up(server, f"http://{address}/invocations", body))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)  # it starts a server of its own
        server.wait(20)
    expected = Recognizer(registered / "model.onnx").embed_crops([crop])
    assert np.array(answer["predictions"]) == pytest.approx(expected, abs=1e-5)


def post_until_up(server: subprocess.Popen[bytes], address: str, body: bytes) -> bytes:
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    for _ in range(3000):  # it loads MLflow and onnxruntime first: minutes on a loaded machine
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read()) from error
        except OSError:
            assert server.poll() is None, "the server has ended"
            time.sleep(0.2)
    raise AssertionError("no server")


def test_a_model_that_is_not_exported(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(FoundryError, match="not exported; run the quantize stage"):
        register(str(tmp_path))
