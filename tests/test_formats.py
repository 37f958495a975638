"""Layouts of face datasets: what is written is read back, and nothing in a file is believed."""

import io
import json
import struct
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facefoundry.errors import FoundryError
from facefoundry.formats import LAYOUTS, Labelled, insightface, layout, layout_of, webdataset
from facefoundry.synthesis import build_generator

IMAGES = [
    Labelled("ann", "0000", b"one", {"yaw_deg": 3.0}),
    Labelled("ann", "0001", b"two"),
    Labelled("bob", "0000", b"three"),
]


def contents(root: Path) -> dict[str, list[bytes]]:
    faces = layout(layout_of(root)).read(root)
    return {identity: [image.read() for image in images] for identity, images in faces.items()}


@pytest.mark.parametrize("name", LAYOUTS)
def test_what_is_written_is_read_back(name: str, tmp_path: Path):
    layout(name).write(IMAGES, tmp_path)
    assert layout_of(tmp_path) == name
    names = ("0000000", "0000001") if name == "insightface" else ("ann", "bob")
    assert contents(tmp_path) == dict(zip(names, ([b"one", b"two"], [b"three"]), strict=True))


def test_a_rec_has_the_records_that_insightface_reads(tmp_path: Path):
    insightface.write(IMAGES, tmp_path)
    data = (tmp_path / "train.rec").read_bytes()
    index = dict(
        map(int, line.split("\t")) for line in (tmp_path / "train.idx").read_text().splitlines()
    )
    assert sorted(index) == [0, 1, 2, 3, 4, 5]  # limits, three images, two identities

    def record(key: int) -> tuple:
        magic, length, flag, label = struct.unpack_from("<IIIf", data, index[key])
        assert magic == 0xCED7230A
        payload = data[index[key] + 8 : index[key] + 8 + length]
        return label, struct.unpack_from(f"<{flag}f", payload, 24), payload[24 + 4 * flag :]

    assert record(0) == (0.0, (4.0, 6.0), b"")  # identities are the records 4 and 5
    assert record(3) == (1.0, (), b"three")
    assert [record(key)[1] for key in (4, 5)] == [(1.0, 3.0), (3.0, 4.0)]
    assert (tmp_path / "property").read_text() == "2,112,112\n"


def test_a_magic_word_inside_an_image_cuts_the_record_and_is_put_back(tmp_path: Path):
    magic = struct.pack("<I", 0xCED7230A)
    hard = [magic, b"abcd" + magic * 2 + b"xy", b"a" + magic, b"abcd" + magic]
    insightface.write([Labelled("a", str(n), data) for n, data in enumerate(hard)], tmp_path)
    assert contents(tmp_path) == {"0000000": hard}
    data = (tmp_path / "train.rec").read_bytes()
    # dmlc's readers look for the next record by the magic word at multiples of four
    starts = [place for place in range(0, len(data), 4) if data.startswith(magic, place)]
    place = 0
    for start in starts:
        assert start == place
        length = struct.unpack_from("<I", data, start + 4)[0] % (1 << 29)
        place = start + 8 + length + -length % 4
    assert place == len(data)


def test_webdataset_takes_cls_labels_and_folders(tmp_path: Path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in (("x.jpg", b"1"), ("x.cls", b"7\n"), ("eve/y.png", b"2")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    assert contents(tmp_path) == {"7": [b"1"], "eve": [b"2"]}


def test_a_parquet_is_what_the_datasets_library_writes(tmp_path: Path):
    layout("parquet").write(IMAGES, tmp_path)
    schema = pq.read_schema(tmp_path / "train-00000.parquet")
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert features["image"] == {"_type": "Image"}
    rows = [{"image": {"bytes": b"1", "path": None}, "label": 3}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train-00000.parquet")
    assert contents(tmp_path) == {"3": [b"1"]}


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for info, data in members:
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("name", ["../../up/a.jpg", "/etc/a.jpg", "..\\up/a.jpg"])
def test_names_that_point_elsewhere_are_refused_and_write_nothing(name: str, tmp_path: Path):
    (tmp_path / "in").mkdir()
    tar_of(tmp_path / "in/a.tar", (tarfile.TarInfo(name), b"data"))
    with pytest.raises(FoundryError, match=r"identity .* is not a plain name"):
        webdataset.read(tmp_path / "in")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar", "in"]


def test_links_in_a_tar_are_passed_over(tmp_path: Path):
    link = tarfile.TarInfo("ann/link.jpg")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    tar_of(tmp_path / "a.tar", (link, b""), (tarfile.TarInfo("ann/real.jpg"), b"data"))
    assert contents(tmp_path) == {"ann": [b"data"]}


@pytest.mark.parametrize(
    ("name", "file", "message"),
    [
        ("insightface", "train.rec", r"no whole record at byte|too short for its header"),
        ("insightface", "train.idx", r"not a RecordIO index|no place of image"),
        ("webdataset", "000000.tar", r"without the empty block|ends at byte"),
        ("parquet", "train-00000.parquet", r"not a parquet of images"),
    ],
)
def test_a_cut_file_is_named(name: str, file: str, message: str, tmp_path: Path):
    layout(name).write(IMAGES, tmp_path)
    data = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(data[: len(data) // 3])
    with pytest.raises(FoundryError, match=message) as caught:
        contents(tmp_path)
    assert file in str(caught.value)


def test_the_import_generator_reads_any_layout(tmp_path: Path):
    with pytest.raises(FoundryError, match="is not one of insightface, webdataset, parquet"):
        layout("csv")
    webdataset.write(IMAGES, tmp_path)
    generator = build_generator("import", root=str(tmp_path))
    assert generator.identities(1, 0) == ["ann", "bob"]
    with pytest.raises(FoundryError, match=r"000000\.tar/ann/0000\.jpg: not a readable"):
        generator.faces("ann", 1, 0)
