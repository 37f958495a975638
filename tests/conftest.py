"""Shared fixtures: a project of its own for every test that runs stages."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
AS_SOMEBODY = ("-c", "user.name=t", "-c", "user.email=t@example.org")  # who commits
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of each of pytest's workers: more would wait
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


@pytest.fixture(autouse=True)
def environment_restored():
    """A stage run in this process leaves its MLflow database in the environment: not for others."""
    before = os.environ.copy()
    yield
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The pipeline's tests are one long chain that the whole suite waits for: they begin first."""
    items.sort(key=lambda item: item.path.name != "test_pipeline.py")


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database without runs, to be copied: making one takes MLflow seconds."""
    import mlflow  # only where it is asked for

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


def copy_project(target: Path) -> Path:
    """The tracked and untracked files of the checkout, as a git repository of their own."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    for command in (
        ["init", "-q"],
        ["add", "-A"],
        [*AS_SOMEBODY, "commit", "-qm", "start"],
    ):
        subprocess.run(["git", *command], cwd=target, check=True)
    return target


def environment_in(project: Path) -> dict[str, str]:
    """This interpreter first on the path, one thread, no benchmark, the project's own MLflow."""
    env = os.environ | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{project / 'src'}{os.pathsep}{ROOT / 'src'}",
        "FACEFOUNDRY_BENCHMARKS": str(project / "no-benchmarks"),
        "GIT_AUTHOR_NAME": "t",
        "GIT_AUTHOR_EMAIL": "t@example.org",
        "GIT_COMMITTER_NAME": "t",
        "GIT_COMMITTER_EMAIL": "t@example.org",
        "OMP_NUM_THREADS": "1",
    }
    env.pop("MLFLOW_TRACKING_URI", None)
    return env


def run_in(
    project: Path, *command: str, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in a project as `environment_in` has it."""
    env = environment_in(project)
    done = subprocess.run(
        command, cwd=project, env=env | environment, capture_output=True, text=True, check=False
    )
    if check and done.returncode:
        raise AssertionError(f"{command} failed:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}")
    return done


def replace_in(path: Path, **values: object) -> None:
    """Set `key: value` lines of a YAML file, wherever the key stands; each must be there."""
    lines = path.read_text().splitlines()
    for key, value in values.items():
        found = [n for n, line in enumerate(lines) if line.strip().startswith(f"{key}:")]
        assert found, f"{path}: no key {key}"
        for number in found:
            indent = lines[number][: len(lines[number]) - len(lines[number].lstrip())]
            lines[number] = f"{indent}{key}: {value}"
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with the project's conf/ and params.yaml."""
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    shutil.copytree(ROOT / "stages", tmp_path / "stages")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path
