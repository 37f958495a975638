"""Files that mean harm: each is refused with its name, runs nothing and writes nothing.

The corpus is made here, so that nothing dangerous lies in the repository. What belongs to one
module alone (archives, benchmarks' pickles, model.json) is tested beside that module.
"""

import ast
import os
import pickle
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from onnx import TensorProto, helper

from facefoundry import manifest
from facefoundry.backbones import build_backbone
from facefoundry.benchmarks import read_benchmark
from facefoundry.errors import FoundryError
from facefoundry.export import load_onnx
from facefoundry.images import decode_image, encode_jpeg, save_png
from facefoundry.model_dir import WEIGHTS, ModelSpec, load_model, save_model
from facefoundry.params import load_params
from facefoundry.references import reference_embeddings
from facefoundry.tracking import tracked

MUTATIONS = 1000


def tiny_model(directory: Path) -> Path:
    arguments = {"widths": [4, 4, 4], "blocks": [1, 1, 1], "head": 8}
    backbone = build_backbone("small_resnet", **arguments, embedding_size=8)
    save_model(directory, backbone, ModelSpec("small_resnet", 8, arguments))
    return directory


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


def test_the_bomb_works(mark: Path):
    pickle.loads(pickle.dumps(Bomb(mark)))
    assert mark.exists()


@pytest.mark.parametrize("form", ["pickle", "torch", "numpy"])
def test_pickled_weights_are_refused_unread(form: str, tmp_path: Path, mark: Path):
    saved = tiny_model(tmp_path / "model")
    path = saved / WEIGHTS
    if form == "pickle":
        path.write_bytes(pickle.dumps(Bomb(mark)))
    elif form == "torch":
        torch.save({"weight": Bomb(mark)}, path)
    else:
        with path.open("wb") as file:
            np.save(file, np.array([Bomb(mark)], object), allow_pickle=True)
    with pytest.raises(FoundryError, match="not a readable safetensors file"):
        load_model(saved)
    assert not mark.exists()


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<Q", 2**62),
        struct.pack("<Q", 100) + b'{"x":{"dtype":"F32","shape":[99999999],"data_offsets":[0,4]}}',
        struct.pack("<Q", 3) + b"{{{",
        b"",
    ],
)
def test_a_lying_safetensors_header_costs_nothing(header: bytes, tmp_path: Path):
    saved = tiny_model(tmp_path / "model")
    (saved / WEIGHTS).write_bytes(header)
    tracemalloc.start()
    with pytest.raises(FoundryError, match="not a readable safetensors file"):
        load_model(saved)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


def test_a_pickled_cache_is_not_opened_but_made_anew(tmp_path: Path, mark: Path, monkeypatch):
    monkeypatch.setattr("facefoundry.references.REFERENCES", {"pixels": lambda: unit_rows})
    with (tmp_path / "pixels-x.npy").open("wb") as file:
        np.save(file, np.array([Bomb(mark)] * 2, object), allow_pickle=True)
    images = np.zeros((2, 112, 112, 3), np.uint8)
    found = reference_embeddings("pixels", images, "x", tmp_path)
    assert found.shape == (2, 3)
    assert not mark.exists()


def unit_rows(images: np.ndarray) -> np.ndarray:
    return np.eye(3, dtype=np.float32)[:1].repeat(len(images), axis=0)


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "sub/../../secret.bin"])
def test_an_onnx_file_may_not_read_outside_its_folder(location: str, tmp_path: Path):
    (tmp_path / "secret.bin").write_bytes(bytes(64))
    (tmp_path / "in/sub").mkdir(parents=True)
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [4], bytes(16), raw=True)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", location
    value = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 112, 112])
    graph = helper.make_graph([], "g", [value], [value], [tensor])
    path = tmp_path / "in/model.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    with pytest.raises(FoundryError, match=r"model\.onnx: .*export"):
        load_onnx(path)


def bomb_png(side: int) -> bytes:
    """A valid PNG of side x side black pixels, a thousandth of their size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    row = b"\0" + bytes(side // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def test_a_decompression_bomb_is_refused_by_its_header():
    data = bomb_png(20_000)  # 400 million pixels
    assert len(data) < 200_000
    tracemalloc.start()
    with pytest.raises(FoundryError, match=r"20000x20000 pixels|decompression bomb"):
        decode_image(data, "bomb.png")
    assert tracemalloc.get_traced_memory()[1] < 50_000_000
    tracemalloc.stop()


def test_a_thousand_broken_images_are_read_or_refused(tmp_path: Path):
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (24, 24, 3)).astype(np.uint8)
    save_png(picture, tmp_path / "x.png")
    seeds = [encode_jpeg(picture), (tmp_path / "x.png").read_bytes()]
    read = 0
    for number in range(MUTATIONS):
        data = bytearray(seeds[number % 2])
        for place in rng.integers(0, len(data), rng.integers(1, 12)):
            data[place] = rng.integers(0, 256)
        cut = int(rng.integers(1, len(data))) if number % 3 == 0 else len(data)
        try:
            image = decode_image(bytes(data[:cut]), f"mutant {number}")
        except FoundryError as error:
            assert f"mutant {number}" in str(error)
        else:
            read += 1
            assert image.dtype == np.uint8
            assert image.shape[2] == 3
    assert 0 < read < MUTATIONS


@pytest.mark.parametrize(
    "text",
    [
        "a,b,same,fold\n" + "x" * 200_000 + ",y,1,1\n",
        'a,b,same,fold\n"never closed,y,1,1\n',
        "a,b,same,fold\nimages/a.png,images/b.png,1e3,1\n",
        "a,b,same,fold\n=cmd|' /C calc'!A0,b,1,1\n",
        "a,b,same,fold\n../../etc/passwd,b,1,1\n",
        "\0\0\0",
    ],
)
def test_odd_tables_are_refused_by_line(text: str, tmp_path: Path):
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(FoundryError, match=r"pairs\.csv"):
        read_benchmark(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.mkdir ['it-ran']",
        "seed: !!python/name:os.system",
        "[" * 2000,
        "- a\n- b",
    ],
)
def test_yaml_makes_no_objects(text: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(FoundryError, match=r"params\.yaml"):
        load_params()
    assert [path.name for path in tmp_path.iterdir()] == ["params.yaml"]


def test_a_manifest_that_is_a_pickle_is_refused(tmp_path: Path, mark: Path):
    (tmp_path / manifest.MANIFEST).write_bytes(pickle.dumps(Bomb(mark)))
    with pytest.raises(FoundryError, match="no readable manifest"):
        manifest.read(tmp_path)
    assert not mark.exists()


def test_mlflow_may_not_unpickle(tmp_path: Path, mark: Path, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'x.db'}")
    model = tmp_path / "model"
    mlflow.pyfunc.save_model(model, python_model=harmless, pip_requirements=["mlflow"])
    (model / "python_model.pkl").write_bytes(pickle.dumps(Bomb(mark)))
    monkeypatch.delenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", raising=False)
    with pytest.raises(Exception, match=r"MLFLOW_ALLOW_PICKLE_DESERIALIZATION"):
        tracked().pyfunc.load_model(str(model))
    assert not mark.exists()


def harmless(model_input: list[str]) -> list[str]:
    return model_input


LOADS = {"torch.load": ("weights_only", True), "np.load": ("allow_pickle", False)}


def test_every_load_says_that_it_unpickles_nothing():
    found = []
    for path in [*(ROOT / "src").rglob("*.py"), *(ROOT / "stages").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if name in LOADS:
                key, wanted = LOADS[name]
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                found.append(name)
                assert given.get(key) == str(wanted), f"{path}:{node.lineno}"
    assert set(found) == set(LOADS)
