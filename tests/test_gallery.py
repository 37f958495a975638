"""The gallery: nothing acknowledged is lost, nothing deleted is left, nobody else can read it."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from facefoundry.errors import FoundryError
from facefoundry.gallery import Gallery, UnknownIdentityError, check_name
from facefoundry.gallery import index as index_module
from facefoundry.gallery.crypto import KEY_VARIABLE, Sealer, find_key, new_key, parse_key
from facefoundry.gallery.index import Index
from facefoundry.gallery.store import Block, StorageError

SIZE, SMALL = 32, 16
MODEL = "a" * 64
KEY, OTHER_KEY = b"k" * 32, b"o" * 32


def unit(count: int, seed: int = 0, size: int = SIZE) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, size)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def opened(path: Path, **changes: object) -> Gallery:
    return Gallery(path, **({"model": MODEL, "size": SIZE, "key": KEY} | changes))


def files(path: Path) -> bytes:
    """Everything on disk: the database and what SQLite keeps beside it."""
    return b"".join(part.read_bytes() for part in path.parent.glob(f"{path.name}*"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "gallery.db"


def test_the_nearest_identity_comes_first(path: Path) -> None:
    gallery, rows = opened(path), unit(20)
    for number, row in enumerate(rows):
        gallery.enroll(f"n{number}", row[None])
    probe = unit(1, seed=9)[0]
    expected = np.argsort(-(rows @ probe))[:5]
    found = gallery.identify(probe, 5)
    assert [candidate.name for candidate in found] == [f"n{row}" for row in expected]
    assert [c.similarity for c in found] == pytest.approx((rows @ probe)[expected], abs=1e-6)


def test_templates_are_fused(path: Path) -> None:
    a, b, probe = np.eye(SIZE, dtype=np.float32)[:3]
    probe = (0.8 * a + 0.6 * probe).astype(np.float32)
    for fusion, expected in (("max", 0.8), ("mean", 0.8 / np.sqrt(2))):
        gallery = opened(path.with_name(fusion), fusion=fusion)
        gallery.enroll("Ada", np.stack([a]))
        assert gallery.enroll("Ada", np.stack([b])) == 2
        assert gallery.identify(probe)[0].similarity == pytest.approx(expected, abs=1e-6)
    with pytest.raises(FoundryError, match="fusion 'sum': unknown; choose one of mean, max"):
        opened(path, fusion="sum")


def test_replacing_leaves_only_the_new_templates(path: Path) -> None:
    gallery, (old, new) = opened(path), unit(2)
    gallery.enroll("Ada", old[None])
    assert gallery.enroll("Ada", new[None], replace=True) == 1
    assert gallery.identify(new)[0].similarity == pytest.approx(1)
    assert gallery.identify(old)[0].similarity < 0.9
    assert gallery.count() == (1, 1)


def test_a_reopened_gallery_is_the_same(path: Path) -> None:
    gallery, rows = opened(path), unit(300)
    for number, row in enumerate(rows):
        gallery.enroll(f"n{number:03}", row[None])
    gallery.close()
    again = opened(path)
    assert again.count() == (300, 300)
    assert [again.identify(row)[0].name for row in rows] == [f"n{n:03}" for n in range(300)]
    assert len(again._store.blocks()) == 1  # many small blocks were merged
    assert [row[0] for row in again.identities(limit=2, after="n001")] == ["n002", "n003"]


def test_a_deleted_identity_is_gone_from_file_log_and_index(path: Path) -> None:
    gallery, rows = opened(path), unit(3)
    gallery.enroll("Ada Unmistakable", rows[:2])
    gallery.enroll("Bela", rows[2:])
    sealed = [row[0] for row in sqlite3.connect(path).execute("SELECT sealed FROM block")]
    before = files(path)
    assert b"Ada Unmistakable" in before and sealed[0][:64] in before
    gallery.delete("Ada Unmistakable")
    after = files(path)
    assert b"Ada Unmistakable" not in after and sealed[0][:64] not in after
    assert [candidate.name for candidate in gallery.identify(rows[0], 5)] == ["Bela"]
    held = [block.embeddings for block in gallery._index._small.values()]
    assert not any(np.isclose(part @ rows[0], 1).any() for part in held)
    with pytest.raises(UnknownIdentityError):
        gallery.delete("Ada Unmistakable")


def test_kept_photos_come_back_and_go_with_their_identity(path: Path) -> None:
    gallery, rows = opened(path), unit(3)
    first, second, other = (bytes([n]) * 9_000 for n in (1, 2, 3))  # each over several pages
    gallery.enroll("Ada", rows[:1], photos=[first])
    gallery.enroll("Ada", rows[1:2], photos=[second])
    gallery.enroll("Bela", rows[2:], photos=[other])
    assert opened(path).photos("Ada") == [first, second]
    sealed = [row[0] for row in sqlite3.connect(path).execute("SELECT sealed FROM photo")]
    before = files(path)
    pieces = [photo[at : at + 64] for photo in sealed for at in (0, 4_500, 8_900)]
    assert all(piece in before for piece in pieces) and first[:64] not in before
    gallery.delete("Ada")
    after = files(path)
    assert [piece in after for piece in pieces] == [False] * 6 + [True] * 3
    assert gallery.photos("Bela") == [other]
    with pytest.raises(UnknownIdentityError):
        gallery.photos("Ada")


def test_replaced_photos_are_gone_and_rotated_ones_open_with_the_new_key(path: Path) -> None:
    gallery, rows = opened(path), unit(2)
    gallery.enroll("Ada", rows[:1], photos=[b"old" * 99])
    (old,) = sqlite3.connect(path).execute("SELECT sealed FROM photo").fetchone()
    gallery.enroll("Ada", rows[1:], replace=True, photos=[b"new" * 99])
    (new,) = sqlite3.connect(path).execute("SELECT sealed FROM photo").fetchone()
    assert old[:64] not in files(path) and new[:64] in files(path)
    gallery.rotate(OTHER_KEY)
    assert new[:64] not in files(path)
    assert gallery.photos("Ada") == opened(path, key=OTHER_KEY).photos("Ada") == [b"new" * 99]


def test_a_photo_does_not_open_as_another_identitys(path: Path) -> None:
    gallery, rows = opened(path), unit(2)
    for name, row in zip(("Ada", "Bela"), rows, strict=True):
        gallery.enroll(name, row[None], photos=[name.encode()])
    with sqlite3.connect(path) as database:
        database.execute("UPDATE photo SET identity = 3 - identity")
    with pytest.raises(FoundryError, match=r"photo of identity .* was changed"):
        gallery.photos("Ada")


def test_a_gallery_from_before_photos_opens(path: Path) -> None:
    gallery = opened(path)
    gallery.enroll("Ada", unit(1))
    gallery.close()
    with sqlite3.connect(path) as database:
        database.execute("DROP TABLE photo")
    assert opened(path).photos("Ada") == []


def test_embeddings_are_not_on_disk_in_the_clear(path: Path) -> None:
    row = unit(1)
    opened(path).enroll("Ada", row)
    assert path.stat().st_mode & 0o077 == 0
    assert row.tobytes()[:16] not in files(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"key": OTHER_KEY}, "does not open with this key"),
        ({"model": "b" * 64}, "made by model aaaaaaaaaaaa .32 numbers., not by bbbbbbbbbbbb"),
        ({"size": 64}, "made by model aaaaaaaaaaaa"),
    ],
)
def test_another_key_or_model_is_refused(
    path: Path, changes: dict[str, object], message: str
) -> None:
    opened(path).enroll("Ada", unit(1))
    with pytest.raises(FoundryError, match=message):
        opened(path, **changes)
    assert opened(path).count() == (1, 1)


def test_a_file_that_is_no_gallery(path: Path) -> None:
    path.write_text("a text of mine, and certainly longer than a header of SQLite is")
    with pytest.raises(FoundryError, match=r"gallery\.db: not a usable gallery"):
        opened(path)
    assert path.read_text().startswith("a text of mine")


def test_a_changed_byte_is_noticed(path: Path) -> None:
    gallery = opened(path)
    gallery.enroll("Ada", unit(1))
    gallery.close()
    with sqlite3.connect(path) as database:
        (sealed,) = database.execute("SELECT sealed FROM block").fetchone()
        database.execute("UPDATE block SET sealed = ?", (sealed[:-1] + bytes([sealed[-1] ^ 1]),))
    with pytest.raises(FoundryError, match="does not open with this key, or was changed"):
        opened(path)


def test_rotation_shuts_the_old_key_out(path: Path) -> None:
    gallery, rows = opened(path), unit(2)
    gallery.enroll("Ada", rows)
    (sealed,) = sqlite3.connect(path).execute("SELECT sealed FROM block").fetchone()
    gallery.rotate(OTHER_KEY)
    assert sealed[:64] not in files(path)
    gallery.enroll("Bela", unit(1, seed=5))
    with pytest.raises(FoundryError, match="does not open"):
        opened(path)
    assert opened(path, key=OTHER_KEY).count() == (2, 3)


def test_another_process_is_seen(path: Path) -> None:
    here, there, rows = opened(path), opened(path), unit(2)
    there.enroll("Ada", rows[:1])
    assert here.identify(rows[0])[0].name == "Ada"
    here.enroll("Bela", rows[1:])
    assert there.identify(rows[1])[0].name == "Bela" and there.count() == (2, 2)
    there.delete("Ada")
    assert [c.name for c in here.identify(rows[0], 5)] == ["Bela"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../etc/passwd",
        "a/b",
        "a\\b",
        ".",
        "..",
        " Ada",
        "A\nda",
        "A\0da",
        "x" * 101,
        "a\u202eb",
    ],
)
def test_bad_names_change_nothing(path: Path, name: str) -> None:
    gallery = opened(path)
    with pytest.raises(FoundryError, match="name: "):
        gallery.enroll(name, unit(1))
    assert gallery.count() == (0, 0)


def test_names_are_compared_in_composed_form() -> None:
    assert check_name("Zoe\u0308") == "Zo\u00eb"
    assert check_name("王小明") == "王小明"


@pytest.mark.parametrize(
    "embeddings",
    [np.zeros((0, SIZE), "f4"), unit(1, size=16), 2 * unit(1), np.full((1, SIZE), np.nan)],
)
def test_bad_embeddings_change_nothing(path: Path, embeddings: np.ndarray) -> None:
    gallery = opened(path)
    with pytest.raises(FoundryError, match="embeddings"):
        gallery.enroll("Ada", embeddings)
    assert gallery.count() == (0, 0)


def test_many_at_once_are_all_or_none(path: Path) -> None:
    gallery = opened(path)
    gallery.enroll("c", unit(1))
    with pytest.raises(FoundryError, match=r"UNIQUE.*nothing was changed"):
        gallery.enroll_many(["a", "b", "c"], unit(3))
    assert gallery.count() == (1, 1)
    gallery.enroll_many(["a", "b"], unit(2, seed=3))
    assert gallery.identify(unit(2, seed=3)[1])[0].name == "b"


def test_large_blocks_are_found_through_faiss_as_by_exact_search() -> None:
    count = index_module.LARGE + 500
    rows, index = unit(count), Index(SIZE)
    index.add(1, Block(np.arange(count), rows))
    index.add(2, Block(np.arange(count, count + 100), unit(100, seed=4)))
    assert list(index._large) == [1]
    probes = rows[:200] + 0.1 * unit(200, seed=1)
    exact = (probes @ rows.T).argmax(axis=1)
    found = [index.nearest(probe, 1)[0][0] for probe in probes]
    assert np.mean(found == exact) >= 0.99
    index.drop(1)
    assert index.nearest(probes[0], 1)[0][0] >= count


def test_a_template_deleted_from_a_full_block_is_gone_from_index_and_file(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among two full blocks, found through faiss; a second connection stands by."""
    full = index_module.LARGE + 1  # so that the rest of it is still searched by faiss
    monkeypatch.setattr("facefoundry.gallery.SEGMENT", full)
    rows, gallery = unit(2 * full, size=SMALL), opened(path, size=SMALL)
    gallery.enroll_many([f"n{number:05}" for number in range(2 * full)], rows)
    other = opened(path, size=SMALL)
    sealed = [row[0] for row in sqlite3.connect(path).execute("SELECT sealed FROM block")]
    victim, probes = 4_000, [0, 3_999, 4_001, 2 * full - 1]
    assert gallery.identify(rows[victim])[0].name == f"n{victim:05}"
    gallery.delete(f"n{victim:05}")
    left = files(path)
    assert [block[:64] in left or block[-64:] in left for block in sealed] == [False, True]
    for each in (gallery, other):
        assert each.count() == (2 * full - 1, 2 * full - 1)
        blocks = [block.embeddings for block, _ in each._index._large.values()]
        assert not any((block == rows[victim]).all(axis=1).any() for block in blocks)
        assert {codes.ntotal for _, codes in each._index._large.values()} == {full, full - 1}
        assert [each.identify(rows[n])[0].name for n in probes] == [f"n{n:05}" for n in probes]


def test_the_key_comes_from_the_environment_or_a_file_of_the_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "deep" / "key"
    made = find_key(file)
    assert len(made) == 32 and find_key(file) == made
    assert file.stat().st_mode & 0o077 == 0
    other = new_key()
    monkeypatch.setenv(KEY_VARIABLE, other)
    assert find_key(file) == parse_key(other, "") != made
    monkeypatch.setenv(KEY_VARIABLE, "short secret")
    with pytest.raises(FoundryError, match=KEY_VARIABLE) as caught:
        find_key(file)
    assert "short secret" not in str(caught.value)


def test_what_was_sealed_for_one_place_does_not_open_in_another() -> None:
    sealer = Sealer(KEY)
    sealed = sealer.seal(b"text", "here")
    assert sealer.open(sealed, "here") == b"text" and sealer.seal(b"text", "here") != sealed
    with pytest.raises(FoundryError):
        sealer.open(sealed, "there")


ENROLLER = """
import sys, numpy as np
from pathlib import Path
from facefoundry.gallery import Gallery
gallery = Gallery(Path(sys.argv[1]), "a" * 64, 32, b"k" * 32)
rows = np.eye(32, dtype=np.float32)
for number in range(1000):
    gallery.enroll(f"n{number}", rows[number % 32][None])
    print(number, flush=True)
"""


@pytest.mark.parametrize("acknowledged", [1, 137, 700])
def test_nothing_acknowledged_is_lost_by_kill_9(path: Path, acknowledged: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", ENROLLER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    for _ in range(acknowledged):
        process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    said = [acknowledged - 1, *(int(line) for line in process.stdout.read().split("\n") if line)]
    process.wait()
    names = {row[0] for row in opened(path).identities()}
    assert names >= {f"n{number}" for number in range(max(said) + 1)}
    assert len(names) <= max(said) + 2  # at most the one that was not yet acknowledged
    with sqlite3.connect(path) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_full_disk_is_not_the_callers_fault_and_changes_nothing(tmp_path: Path):
    gallery = opened(tmp_path / "gallery.db")
    gallery.enroll("Ada", unit(1))
    pages = gallery._store._db.execute("PRAGMA page_count").fetchone()[0]
    gallery._store._db.execute(f"PRAGMA max_page_count={pages}")  # as if the disk ended here
    with pytest.raises(StorageError, match="full; nothing was changed"):
        gallery.enroll("Bela", unit(500))
    assert [name for name, _, _ in gallery.identities()] == ["Ada"]
