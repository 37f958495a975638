"""Generated masters say that they are; what a user brought in does not."""

import io
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from facefoundry import manifest
from facefoundry.images import encode_jpeg
from facefoundry.shards import read_member
from facefoundry.synthesis.run import synthesize

RENDER = {"name": "render", "size": 160, "crop": [112, 126], "spread": 0.45, "pose": 1.0}


def description(data: bytes) -> dict[str, str]:
    """The attributes of the packet's description, without their namespaces."""
    packet = ElementTree.fromstring(Image.open(io.BytesIO(data)).info["xmp"])
    return {key.rpartition("}")[2]: value for key, value in packet[0][0].attrib.items()}


def test_a_generated_master_carries_its_source_type_and_seed(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = synthesize(RENDER | {"cache": "cache"}, 1, 1, 1, 7, Path("data/synthesize"), 1)
    (row,) = manifest.rows(table)
    found = description(read_member(row))
    assert found["DigitalSourceType"] == (
        "http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicMedia"
    )
    assert found["identifier"] == f"{row['image_id']}?seed=7"


def test_what_is_imported_is_not_marked(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own/ann").mkdir(parents=True)
    image = np.zeros((20, 20, 3), np.uint8)
    (tmp_path / "own/ann/0.jpg").write_bytes(encode_jpeg(image))
    options = {"name": "import", "root": str(tmp_path / "own")}
    (row,) = manifest.rows(synthesize(options, 1, 1, 1, 0, Path("data/synthesize"), 1))
    assert "xmp" not in Image.open(io.BytesIO(read_member(row))).info
