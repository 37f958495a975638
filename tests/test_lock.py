"""requirements.lock: the versions of constraints.txt, each by its hash."""

import re
import tomllib
from importlib.metadata import requires

import pytest
from conftest import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

# its build depends on the machine: a CPU wheel here, CUDA there
BY_VERSION = {"torch"}


def pins(text: str) -> dict[str, str]:
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^\s\\;]+)", text, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in found}


@pytest.fixture(scope="module")
def lock() -> str:
    return (ROOT / "requirements.lock").read_text()


@pytest.fixture(scope="module")
def constraints() -> dict[str, str]:
    return pins((ROOT / "constraints.txt").read_text())


def test_lock_and_constraints_name_the_same_versions(lock: str, constraints: dict[str, str]):
    assert pins(lock).items() <= constraints.items()
    assert not BY_VERSION & set(pins(lock))
    assert set(constraints) >= BY_VERSION


def test_every_package_has_a_hash(lock: str):
    entries = re.split(r"\n(?=\S)", lock.strip())
    assert len(entries) == len(pins(lock)) > 200
    for entry in entries:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", entry), entry


def test_all_that_the_project_asks_for_is_locked(lock: str):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = project["dependencies"] + [
        line
        for extra in ("dev", "serve", "signing", "tensorrt-rtx")
        for line in project["optional-dependencies"][extra]
    ]
    names = {canonicalize_name(Requirement(line).name) for line in asked}
    assert names - BY_VERSION <= set(pins(lock))
    # and what torch itself needs, though it is not in the file
    needs = [Requirement(line) for line in requires("torch") or ()]
    plain = {canonicalize_name(n.name) for n in needs if not n.marker}
    cuda = {name for name in plain if name.startswith(("nvidia-", "cuda-", "triton"))}
    assert plain - cuda <= set(pins(lock))
