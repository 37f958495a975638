"""Every flipped byte, cut file and missing file of an output is found, and the repair repairs."""

import os
import random
import subprocess
from pathlib import Path

import pytest
from conftest import run_in
from typer.testing import CliRunner

from facefoundry import manifest
from facefoundry.cli import build_app
from facefoundry.errors import FoundryError
from facefoundry.integrity import Fault, find_faults

DAG = """
stages:
  make:
    cmd: python make.py
    outs: [data/faces, single.bin]
"""
MAKE = """
from pathlib import Path
import os
import random
rng = random.Random(0)
for name in ("data/faces/a.tar", "data/faces/sub/b.json", "single.bin"):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    Path(name).write_bytes(rng.randbytes(5000))
Path("data/faces/model.json").write_text('{"embedding_size": 128}')
from facefoundry import manifest
row = {"identity": "a", "shard": "data/faces/a.tar", "offset": 0, "size": 9}
rows = [row | {"image_id": name} for name in "abc"]
manifest.write(manifest.table(rows), Path("data/faces"))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("integrity")
    (root / "dvc.yaml").write_text(DAG)
    (root / "make.py").write_text(MAKE)
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    run_in(root, "dvc", "init", "-q")
    run_in(root, "dvc", "config", "cache.type", "copy")
    run_in(root, "dvc", "repro", "-q")
    return root


FILES = ("data/faces/a.tar", "data/faces/sub/b.json", "single.bin")


def repaired(root: Path, fault: Fault) -> None:
    run_in(root, *fault.repair.split())
    assert find_faults(root) == []


def test_a_sound_pipeline_has_no_faults(made: Path):
    assert find_faults(made) == []


def test_a_hundred_of_a_hundred_flipped_bytes_are_found_and_dvc_finds_none(made: Path):
    rng = random.Random(1)
    for number in range(100):
        path = made / rng.choice(FILES)
        before, times = path.read_bytes(), path.stat()
        place = rng.randrange(len(before))
        flipped = bytearray(before)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as a failing disk leaves it
        if number == 0:
            assert "up to date" in run_in(made, "dvc", "status").stdout
        (fault,) = find_faults(made)
        assert made / fault.path == path
        assert "differs" in fault.problem
        path.write_bytes(before)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert find_faults(made) == []


@pytest.mark.parametrize("name", FILES)
def test_a_cut_and_a_missing_file_are_found_and_mended(made: Path, name: str):
    path = made / name
    path.write_bytes(path.read_bytes()[:100])
    (fault,) = find_faults(made)
    assert fault.repair.startswith("dvc checkout --force")
    repaired(made, fault)
    path.unlink()
    (fault,) = find_faults(made)
    assert fault.problem == "is missing"
    repaired(made, fault)


def test_a_broken_cache_is_not_used_for_the_repair(made: Path):
    cached = [path for path in (made / ".dvc/cache/files/md5").rglob("*") if path.is_file()]
    kept = {path: path.read_bytes() for path in cached}
    for path in cached:
        path.chmod(0o644)
        path.write_bytes(b"broken")
    (made / "single.bin").write_bytes(b"broken")
    (fault,) = find_faults(made)  # the folder is sound, though DVC's list of it is not
    assert fault.repair == "dvc repro --force --single-item make"
    for path, data in kept.items():
        path.write_bytes(data)
    repaired(made, fault)


def test_a_missing_row_and_a_wrong_model_json_are_found_and_mended(made: Path):
    faces = made / "data/faces"
    manifest.write(manifest.read(faces).slice(1), faces)  # valid in itself, but not what was made
    (fault,) = find_faults(made)
    assert fault.path == Path("data/faces/manifest.parquet")
    repaired(made, fault)
    (faces / "model.json").write_text('{"embedding_size": 256}')
    (fault,) = find_faults(made)
    assert fault.path == Path("data/faces/model.json")
    repaired(made, fault)


def test_the_command_lists_the_repairs_and_fails(made: Path, monkeypatch):
    monkeypatch.chdir(made)
    sound = CliRunner().invoke(build_app(), ["check"])
    assert (sound.exit_code, sound.stdout) == (0, "every output is what its stage wrote\n")
    before = (made / "single.bin").read_bytes()
    (made / "single.bin").write_bytes(before[1:])
    broken = CliRunner().invoke(build_app(), ["check"])
    assert broken.exit_code == 1
    assert broken.stdout == (
        "single.bin differs from what its stage wrote;"
        " mend it with: dvc checkout --force single.bin\n"
    )
    (made / "single.bin").write_bytes(before)


def test_a_stranger_in_an_output_is_named(made: Path):
    (made / "data/faces/extra").write_text("x")
    (fault,) = find_faults(made)
    assert (fault.path, fault.repair) == (Path("data/faces/extra"), "rm data/faces/extra")
    (made / "data/faces/extra").unlink()


def test_without_a_run_there_is_nothing_to_check(tmp_path: Path):
    with pytest.raises(FoundryError, match="nothing has run here yet"):
        find_faults(tmp_path)
    (tmp_path / "dvc.lock").write_text("[1")
    with pytest.raises(FoundryError, match="not a lock file of DVC"):
        find_faults(tmp_path)
