"""Ctrl-C, as a terminal sends it to all processes: a line, no process left, no work lost."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT
from crashing import NET, SHORT, make_project

from facefoundry.journal import VARIABLE

INTERRUPTED = 130
TRAIN = ["stages.train", *SHORT, *NET, "embedding_size=16", "teacher=none", "steps=60"]
SYNTHESIZE = ["stages.synthesize", "generator=import", "identities_per_shard=1", "workers=2"]
STAND_IN = """
import sys
from unittest.mock import MagicMock
sys.modules[__name__] = MagicMock()
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    """Large photographs, so that Ctrl-C comes while a shard is made; and a stand-in for MLflow."""
    project = make_project(tmp_path_factory.mktemp("interrupts"))
    photograph = cv2.imencode(".jpg", np.zeros((2000, 2000, 3), np.uint8))[1].tobytes()
    for path in (project / "data/import").rglob("*.png"):
        path.unlink()
    for number in range(60):
        path = project / f"data/import/i{number // 10}/{number}.jpg"
        path.write_bytes(photograph)
    (project / "stand-in").mkdir()
    stand_in = (
        "import sys\nfrom unittest.mock import MagicMock\nsys.modules[__name__] = MagicMock()\n"
    )
    (project / "stand-in/mlflow.py").write_text(stand_in)
    return project


class Run:
    """`python -m ...` in a session of its own, and the log that it leaves."""

    def __init__(self, project: Path, log: Path, command: list[str]) -> None:
        self.log = log
        paths = [project / "stand-in", project, ROOT / "src"]
        environment = {
            "PYTHONPATH": os.pathsep.join(map(str, paths)),
            VARIABLE: str(log),
            "OMP_NUM_THREADS": "1",
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=project,
            env=os.environ | environment,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            # a shell's background job ignores Ctrl-C, and its children would inherit that
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def events(self, name: str) -> list[dict]:
        lines = self.log.read_text().splitlines() if self.log.is_file() else []
        return [entry for entry in map(json.loads, lines) if entry["event"] == name]

    def wait_for(self, name: str) -> None:
        while not self.events(name):
            assert self.process.poll() is None, self.process.communicate()[1]
            time.sleep(0.02)

    def members(self) -> list[int]:
        """Processes of this session that still run."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            try:
                fields = stat.read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == self.process.pid and fields[0] != "Z":
                found.append(int(stat.parent.name))
        return found

    def until(self, holds: Callable[[], bool]) -> None:
        begins = time.monotonic()
        while not holds():
            assert time.monotonic() - begins < 60, self.members()
            time.sleep(0.01)

    def interrupted(self) -> tuple[float, str]:
        """Ctrl-C; the seconds until nothing runs, and what was said."""
        begins = time.monotonic()
        os.killpg(self.process.pid, signal.SIGINT)
        self.until(lambda: self.process.poll() is not None and not self.members())
        seconds = time.monotonic() - begins
        return seconds, self.process.communicate()[1]


@pytest.mark.parametrize(
    ("command", "out", "kept"),
    [(SYNTHESIZE, "data/synthesize", "*.parquet"), (TRAIN, "models/train", "last.pt")],
)
def test_ctrl_c_stops_everything_and_keeps_what_is_done(
    command: list[str], out: str, kept: str, project: Path, tmp_path: Path
):
    run = Run(project, tmp_path / "log.jsonl", command)
    run.wait_for("done")
    seconds, words = run.interrupted()
    print(f"stopped after {seconds:.2f} s")  # on two free cores under 2; see docs/measured
    assert run.process.returncode == INTERRUPTED
    # Python may warn after it of semaphores whose processes were killed
    assert "stopped; the same command goes on from here" in words.splitlines()
    assert "Traceback" not in words
    assert list((project / out).iterdir()) == []
    assert list((project / ".cache" / Path(out).name).rglob(kept))  # see test_crash_safety


def test_the_workers_of_a_killed_run_end_too(project: Path, tmp_path: Path):
    run = Run(project, tmp_path / "log.jsonl", [*SYNTHESIZE, "seed=1"])
    run.wait_for("begun")
    run.process.kill()
    run.process.wait()
    run.until(lambda: not run.members())
