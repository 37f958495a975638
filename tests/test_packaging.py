"""The container's list of packages is enough, and the unit is one that systemd understands."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGING = ROOT / "packaging"
NOT_INSTALLED = ("torch", "mlflow", "hydra", "pyarrow", "sklearn", "matplotlib", "numba", "dvc")


def requirements() -> list[str]:
    lines = (PACKAGING / "serve.txt").read_text().splitlines()
    return [line for line in lines if not line.startswith("#")]


def test_serving_runs_without_what_the_container_leaves_out() -> None:
    blocked = f"import sys; sys.modules.update(dict.fromkeys({NOT_INSTALLED!r}))\n"
    code = blocked + (
        "from facefoundry.cli import build_app\n"
        "from facefoundry import backends, live\n"
        "from facefoundry.service import app\n"
        "build_app()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_package_is_pinned_and_declared() -> None:
    pinned = re.findall(r"^([\w.-]+)==", (ROOT / "constraints.txt").read_text(), re.M)
    declared = (ROOT / "pyproject.toml").read_text()
    for package in requirements():
        assert package in pinned, package
        assert f'"{package}>' in declared or package in ("rich",), package


@pytest.mark.parametrize("name", ["Dockerfile", "Dockerfile.jetpack"])
def test_what_the_container_copies_is_there(name: str) -> None:
    text = (PACKAGING / name).read_text()
    copied = [path for line in re.findall(r"^COPY (.*) \S+$", text, re.M) for path in line.split()]
    assert "src" in copied and all((ROOT / path).exists() for path in copied)
    assert "USER facefoundry" in text and "KEY=" not in text.split("FROM", 1)[1]


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd-analyze")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    text = (PACKAGING / "facefoundry.service").read_text()
    unit = tmp_path / "facefoundry.service"
    unit.write_text(text.replace("/opt/facefoundry/.venv/bin/facefoundry", "/bin/true"))
    command = ["systemd-analyze", "verify", "--man=no", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "facefoundry.service" not in done.stderr, done.stderr


def test_the_unit_takes_the_options_of_the_command() -> None:
    (line,) = re.findall(r"^ExecStart=(.*)$", (PACKAGING / "facefoundry.service").read_text(), re.M)
    command = [sys.executable, "-m", "facefoundry", "serve", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(option in shown for option in re.findall(r"--[a-z-]+", line))
