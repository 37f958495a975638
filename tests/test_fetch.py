"""LFW by scikit-learn's loader: offline, and from files that are there already."""

import tarfile
import threading
import urllib.error
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from sklearn.datasets import _lfw
from sklearn.datasets._base import RemoteFileMetadata

from facefoundry import fetch as module
from facefoundry.alignment import SIZE
from facefoundry.benchmarks import load_images, read_benchmark
from facefoundry.errors import FoundryError
from facefoundry.fetch import fetch, read_lfw_pairs

PAIRS = "2\t2\n{}{}"
GENUINE = "Ann\t1\t2\nBob\t1\t2\n"
IMPOSTOR = "Ann\t1\tBob\t2\nAnn\t2\tBob\t1\n"
OTHER = ("Cid\t1\t2\nDan\t1\t2\n", "Cid\t1\tDan\t2\nCid\t2\tDan\t1\n")


def photographs(downloads: Path) -> None:
    """What the loader keeps: 250 x 250 photographs by name, and the tables of pairs. The faces
    are cut from the sheet of generated identities in docs/."""
    home = downloads / "lfw_home"
    sheet = Image.open(ROOT / "docs/faces.jpg")
    side = sheet.height // 8
    for row, name in enumerate(("Ann", "Bob", "Cid", "Dan")):
        folder = home / "lfw_funneled" / name
        folder.mkdir(parents=True)
        for number in (1, 2):
            face = sheet.crop((number * side, row * side, (number + 1) * side, (row + 1) * side))
            canvas = Image.new("RGB", (250, 250), "grey")
            canvas.paste(face.resize((170, 170)), (40, 40))
            canvas.save(folder / f"{name}_000{number}.jpg", quality=95)
    for table in ("pairsDevTrain.txt", "pairsDevTest.txt"):
        (home / table).write_text(f"2\n{GENUINE}{IMPOSTOR}")
    (home / "pairs.txt").write_text("2\t2\n" + GENUINE + IMPOSTOR + "".join(OTHER))


def test_pairs_by_hand(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text(
        "2\t1\nAnn\t1\t2\nAnn\t1\tBob\t3\nCid\t4\t5\nCid\t1\tDan\t12\n"
    )
    assert read_lfw_pairs(tmp_path / "pairs.txt") == [
        ("Ann/Ann_0001.jpg", "Ann/Ann_0002.jpg", 1, 1),
        ("Ann/Ann_0001.jpg", "Bob/Bob_0003.jpg", 0, 1),
        ("Cid/Cid_0004.jpg", "Cid/Cid_0005.jpg", 1, 2),
        ("Cid/Cid_0001.jpg", "Dan/Dan_0012.jpg", 0, 2),
    ]


def test_a_line_that_is_no_pair_is_named(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("1\t1\nAnn\t1\t2\nnonsense\n")
    with pytest.raises(FoundryError, match=r"pairs\.txt, line 3: 'nonsense'"):
        read_lfw_pairs(tmp_path / "pairs.txt")


def test_photographs_become_an_aligned_benchmark(tmp_path: Path) -> None:
    photographs(tmp_path / "downloads")
    said = fetch("lfw", tmp_path / "benchmarks", tmp_path / "downloads")
    assert "8 pairs of 8 images" in said
    benchmark = read_benchmark(tmp_path / "benchmarks/lfw")
    assert benchmark.pairs.fold.tolist() == [1] * 4 + [2] * 4
    assert benchmark.pairs.same.tolist() == [True, True, False, False] * 2
    assert load_images(benchmark).shape == (8, SIZE, SIZE, 3)
    assert "images/Ann/Ann_0001.jpg,Ann" in (tmp_path / "benchmarks/lfw/images.csv").read_text()
    with pytest.raises(FoundryError, match="is there already"):
        fetch("lfw", tmp_path / "benchmarks", tmp_path / "downloads")


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[str]:
    """Address of a server that holds LFW's four files, with our few photographs in the archive."""
    photographs(tmp_path / "served")
    home = tmp_path / "served/lfw_home"
    with tarfile.open(home / "lfw-funneled.tgz", "w:gz") as packed:
        packed.add(home / "lfw_funneled", "lfw_funneled")
    handler = partial(SimpleHTTPRequestHandler, directory=str(home))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def at_address(remote: RemoteFileMetadata, address: str, home: Path) -> RemoteFileMetadata:
    """The loader's own entry, pointed at the server, with the hash of what it holds."""
    digest = sha256((home / remote.filename).read_bytes()).hexdigest()
    return RemoteFileMetadata(remote.filename, f"{address}/{remote.filename}", digest)


def test_the_loaders_download_becomes_a_benchmark(
    archive: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "served/lfw_home"
    targets = tuple(at_address(remote, archive, home) for remote in _lfw.TARGETS)
    packed = at_address(_lfw.FUNNELED_ARCHIVE, archive, home)
    monkeypatch.setattr(_lfw, "TARGETS", targets)
    monkeypatch.setattr(_lfw, "FUNNELED_ARCHIVE", packed)
    said = fetch("lfw", tmp_path / "benchmarks", tmp_path / "downloads")
    assert "8 pairs of 8 images" in said
    assert len(read_benchmark(tmp_path / "benchmarks/lfw").paths) == 8
    changed = RemoteFileMetadata(packed.filename, packed.url, "0" * 64)
    monkeypatch.setattr(_lfw, "FUNNELED_ARCHIVE", changed)
    with pytest.raises(FoundryError, match=r"cannot be downloaded .*SHA256"):
        fetch("lfw", tmp_path / "elsewhere", tmp_path / "again")


def test_a_photograph_without_a_face_is_named(tmp_path: Path) -> None:
    photographs(tmp_path / "downloads")
    blank = tmp_path / "downloads/lfw_home/lfw_funneled/Dan/Dan_0001.jpg"
    Image.fromarray(np.full((250, 250, 3), 90, np.uint8)).save(blank)
    with pytest.raises(FoundryError, match=r"Dan_0001\.jpg: no face found"):
        fetch("lfw", tmp_path / "benchmarks", tmp_path / "downloads")
    assert not (tmp_path / "benchmarks/lfw").exists()


def test_offline_is_one_line_with_the_way_out(tmp_path: Path, monkeypatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no route")

    monkeypatch.setattr(module, "fetch_lfw_pairs", no_network)
    with pytest.raises(FoundryError, match=r"cannot be downloaded.*no route.*lfw-funneled\.tgz"):
        fetch("lfw", tmp_path / "benchmarks", tmp_path / "downloads")


def test_another_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FoundryError, match="no benchmark casia"):
        fetch("casia", tmp_path, tmp_path)
