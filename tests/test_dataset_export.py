"""A dataset leaves in the layouts of others and comes back the same."""

import json
from pathlib import Path

import mlcroissant
import numpy as np
import pytest
from typer.testing import CliRunner

from facefoundry import manifest
from facefoundry.cli import build_app
from facefoundry.errors import FoundryError
from facefoundry.formats import LAYOUTS, layout
from facefoundry.images import decode_image, encode_jpeg
from facefoundry.shards import read_member
from facefoundry.synthesis.run import synthesize


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """A project with one dataset of two identities in `data/faces`."""
    root = tmp_path_factory.mktemp("export")
    rng = np.random.default_rng(0)
    for identity in ("ann", "bob"):
        (root / "own" / identity).mkdir(parents=True)
        for number in range(3):
            image = rng.integers(0, 256, (30, 30, 3)).astype(np.uint8)
            (root / "own" / identity / f"{number}.jpg").write_bytes(encode_jpeg(image))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        options = {"name": "import", "root": "own", "licence": "CC0-1.0"}
        synthesize(options, 9, 9, 2, 0, Path("data/faces"), 1)
    return root


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_keeps_identities_and_bytes(project: Path, monkeypatch, tmp_path, name: str):
    monkeypatch.chdir(project)
    arguments = ["export-faces", str(tmp_path / "out"), "--faces", "data/faces", "--layout", name]
    done = CliRunner().invoke(build_app(), arguments)
    assert done.output.startswith("6 images in"), done.output
    expected: dict[str, list[bytes]] = {}
    for row in manifest.rows(manifest.read(Path("data/faces"))):
        expected.setdefault(row["identity"], []).append(read_member(row))
    found = layout(name).read(tmp_path / "out")
    assert [[image.read() for image in images] for images in found.values()] == [*expected.values()]
    assert json.loads((tmp_path / "out/licences.json").read_text())[0]["licence"] == "CC0-1.0"


def test_the_croissant_file_is_valid_and_knows_the_bytes(project: Path, monkeypatch, tmp_path):
    monkeypatch.chdir(project)
    arguments = ["export-faces", str(tmp_path / "out"), "--faces", "data/faces"]
    assert CliRunner().invoke(build_app(), arguments).exit_code == 0
    dataset = mlcroissant.Dataset(jsonld=tmp_path / "out/croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    (tar,) = dataset.metadata.distribution
    assert tar.name == "000000.tar"


def test_a_croissant_reader_finds_images_and_identities(project: Path, monkeypatch, tmp_path):
    monkeypatch.chdir(project)
    out = tmp_path / "out"
    arguments = ["export-faces", str(out), "--faces", "data/faces", "--layout", "parquet"]
    assert CliRunner().invoke(build_app(), arguments).exit_code == 0
    records = list(mlcroissant.Dataset(jsonld=out / "croissant.json").records("train-00000"))
    rows = manifest.rows(manifest.read(Path("data/faces")))
    found = [(row["train-00000/identity"], row["train-00000/image"].size) for row in records]
    assert found == [(row["identity"].encode(), (30, 30)) for row in rows]
    first = np.asarray(records[0]["train-00000/image"])
    assert np.array_equal(first, decode_image(read_member(rows[0]), "first"))


def test_a_folder_with_something_in_it_is_left_alone(project: Path, monkeypatch, tmp_path):
    monkeypatch.chdir(project)
    (tmp_path / "mine.txt").write_text("mine")
    arguments = ["export-faces", str(tmp_path), "--faces", "data/faces"]
    done = CliRunner().invoke(build_app(), arguments)
    assert isinstance(done.exception, FoundryError)
    assert "not empty" in str(done.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
