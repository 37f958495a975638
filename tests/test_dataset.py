"""Manifest, shards and the sharded pool: the dataset contract."""

import hashlib
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from facefoundry import keeping, manifest
from facefoundry.errors import FoundryError
from facefoundry.keeping import discard
from facefoundry.sharding import build_shards, cache_key, chunked
from facefoundry.shards import read_member, write_shard

ROW = {"identity": "a", "shard": "s.tar", "offset": 0, "size": 1, "attributes": {"yaw": 1.5}}
LICENCE = [{"name": "work", "licence": "CC0-1.0"}]


def rows(*names: str) -> list[dict]:
    return [ROW | {"image_id": name} for name in names]


def test_manifest_round_trip_with_licences(tmp_path: Path):
    table = manifest.with_licences(manifest.table(rows("b", "a")), LICENCE)
    manifest.write(table, tmp_path)
    again = manifest.read(tmp_path)
    assert [row["image_id"] for row in manifest.rows(again)] == ["a", "b"]
    assert manifest.rows(again)[0]["attributes"] == {"yaw": 1.5}
    assert manifest.licences(again) == LICENCE


def test_some_rows_with_landmarks_and_some_without(tmp_path: Path):
    mixed = rows("a", "b")
    mixed[0]["landmarks"] = [float(n) for n in range(10)]
    manifest.write(manifest.table(mixed), tmp_path)
    first, second = manifest.rows(manifest.read(tmp_path))
    assert first["landmarks"] == list(range(10))
    assert second["landmarks"] is None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda table: table.drop_columns(["seed"]), "seed"),
        (lambda table: table.take([1, 0]), "not unique and sorted"),
        (lambda table: table.take([0, 0]), "not unique and sorted"),
    ],
)
def test_a_broken_manifest_is_refused_by_name(tmp_path: Path, spoil, message):
    pq.write_table(spoil(manifest.table(rows("a", "b"))), tmp_path / manifest.MANIFEST)
    with pytest.raises(FoundryError, match=message) as caught:
        manifest.read(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_shard_is_plain_tar_and_is_read_by_offset(tmp_path: Path):
    members = [("a.jpg", b"x" * 700), ("b.jpg", b"yy"), ("c.jpg", b"")]
    places = write_shard(tmp_path / "0.tar", members)
    with tarfile.open(tmp_path / "0.tar") as tar:
        assert [tar.extractfile(info).read() for info in tar] == [data for _, data in members]
    for (offset, size), (name, data) in zip(places, members, strict=True):
        row = {"shard": "0.tar", "offset": offset, "size": size, "image_id": name}
        assert read_member(row, tmp_path) == data
    write_shard(tmp_path / "1.tar", members)
    assert (tmp_path / "0.tar").read_bytes() == (tmp_path / "1.tar").read_bytes()


def test_truncated_and_missing_shards_say_what_to_do(tmp_path: Path):
    ((offset, size),) = write_shard(tmp_path / "0.tar", [("a.jpg", b"x" * 2000)])
    row = {"shard": "0.tar", "offset": offset, "size": size, "image_id": "a"}
    (tmp_path / "0.tar").write_bytes((tmp_path / "0.tar").read_bytes()[:1000])
    with pytest.raises(FoundryError, match="shard ends before a does"):
        read_member(row, tmp_path)
    with pytest.raises(FoundryError, match="dvc checkout"):
        read_member(row | {"shard": "gone.tar"}, tmp_path)


def build_numbers(log: Path, fail_at: int, numbers: list[int]):
    """A shard's rows; leaves a mark for each run and fails at one number."""
    for number in numbers:
        if number == fail_at:
            raise RuntimeError("killed here")
        with log.open("a") as file:
            file.write(f"{number}\n")
        yield {"image_id": f"{number:03d}", "identity": "i"}, bytes([number]) * 100


def digests(out: Path) -> dict[str, str]:
    files = [*sorted((out / "shards").iterdir()), out / manifest.MANIFEST]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = []
    for workers in (1, 3):
        build = partial(build_numbers, tmp_path / "log", -1)
        out = Path("data/numbers")
        build_shards(build, chunked(list(range(10)), 4), out, f"key{workers}", workers, LICENCE)
        found.append(digests(out))
    assert found[0] == found[1]
    assert len(found[0]) == 4


def test_a_killed_run_goes_on_and_publishes_nothing_before_its_end(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    out, chunks = Path("data/numbers"), chunked(list(range(10)), 2)
    with pytest.raises(RuntimeError, match="killed here"):
        build_shards(partial(build_numbers, tmp_path / "log", 7), chunks, out, "key", 1, [])
    assert not out.exists()
    table = build_shards(partial(build_numbers, tmp_path / "log", -1), chunks, out, "key", 1, [])
    made = (tmp_path / "log").read_text().split()
    # the three whole shards are made once; only the interrupted one is made again
    assert made == ["0", "1", "2", "3", "4", "5", "6", "6", "7", "8", "9"]
    assert [read_member(row)[0] for row in manifest.rows(table)] == list(range(10))
    assert not (keeping.CACHE / "numbers" / "key").exists()


def test_what_a_kill_leaves_of_discarded_work_is_not_used(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    work = keeping.CACHE / "numbers/key"
    work.mkdir(parents=True)

    def dies(path: Path, **_: object) -> None:
        if path.exists():
            raise KeyboardInterrupt

    monkeypatch.setattr("facefoundry.keeping.shutil.rmtree", dies)
    with pytest.raises(KeyboardInterrupt):
        discard(work)
    assert not work.exists()


def test_cache_key_sees_config_and_inputs(tmp_path: Path):
    (tmp_path / "in").write_text("1")
    one = cache_key({"a": 1}, tmp_path / "in")
    assert one == cache_key({"a": 1}, tmp_path / "in")
    assert one != cache_key({"a": 2}, tmp_path / "in")
    (tmp_path / "in").write_text("2")
    assert one != cache_key({"a": 1}, tmp_path / "in")


def test_chunks_cover_everything():
    assert [list(c) for c in chunked(np.arange(5).tolist(), 2)] == [[0, 1], [2, 3], [4]]
