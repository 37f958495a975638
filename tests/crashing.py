"""A toy project whose stages are killed: each run is a process forked from one with the imports.

MLflow is a stand-in in these processes: its runs are not at stake here and cost a second each.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import random
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from unittest.mock import MagicMock

import cv2
import toy_faces

from facefoundry import manifest
from facefoundry.alignment import TEMPLATE
from facefoundry.journal import VARIABLE
from facefoundry.shards import write_shard
from facefoundry.stage import _or_exit, run_trial

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # for stages/

IDENTITIES, IMAGES, PER_SHARD = 12, 6, 6
NET = ["backbone.widths=[16,16,16]", "backbone.blocks=[1,1,1]", "backbone.head=8"]
SHORT = ["steps=10", "validate_every=1", "batch_size=8", "precision=32-true", "augmentation=none"]
OUT = {
    "synthesize": "data/synthesize",
    "curate": "data/curate",
    "align": "data/crops",
    "train": "models/train",
    "distill": "models/distill",
}
OVERRIDES = {
    "synthesize": ["generator=import", f"identities_per_shard={PER_SHARD // IMAGES}", "workers=1"],
    "curate": [
        "faces=data/faces",
        "judge=none",
        f"chunk={PER_SHARD}",
        "near_duplicate_bits=0",
        "workers=1",
    ],
    "align": ["faces=data/faces", f"images_per_shard={PER_SHARD}", "workers=1"],
    "train": [*SHORT, *NET, "embedding_size=16", "teacher=none"],
    "distill": [*SHORT, *NET, "prune.share=0.5", "prune.steps=4"],
}

# the stages themselves are read from the checkout by each run
PRELOADED = [
    "pytest",
    "crashing",
    "facefoundry.align",
    "facefoundry.curation.run",
    "facefoundry.distiller",
    "facefoundry.preview",
    "facefoundry.recognizer",
    "facefoundry.synthesis.import_faces",
    "facefoundry.synthesis.run",
]


def make_project(project: Path) -> Path:
    """Inputs of every stage but distill, whose teacher `train` makes."""
    for folder in ("conf", "stages"):
        shutil.copytree(ROOT / folder, project / folder)
    shutil.copy(ROOT / "params.yaml", project)
    crops, names = toy_faces.toy_crops(IDENTITIES, IMAGES)
    data = [cv2.imencode(".png", crop[..., ::-1])[1].tobytes() for crop in crops]
    ids = [f"{name}/{number:04}" for number, name in enumerate(names)]
    for image_id, image in zip(ids, data, strict=True):
        path = project / f"data/import/{image_id}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image)
    shard = Path("data/faces/shards/0.tar")
    (project / shard).parent.mkdir(parents=True)
    places = write_shard(project / shard, zip((f"{i}.png" for i in ids), data, strict=True))
    rows = [
        {"image_id": i, "identity": name, "shard": str(shard), "offset": offset, "size": size}
        | {"landmarks": TEMPLATE.ravel().tolist()}
        for i, name, (offset, size) in zip(ids, names, places, strict=True)
    ]
    manifest.write(manifest.table(rows), project / "data/faces")
    toy_faces.write_faces(project / "split")
    shutil.copytree(project / "split/data", project / "data", dirs_exist_ok=True)
    return project


def run_stage(project: Path, stage: str, overrides: list[str], log: Path) -> None:
    """In a process of its own: one stage from beginning to end, its words into `log`."""
    os.chdir(project)
    os.environ[VARIABLE] = str(log)
    sys.modules["mlflow"] = MagicMock()
    main = importlib.import_module(f"stages.{stage}").main
    with log.with_suffix(".err").open("w") as words, contextlib.redirect_stderr(words):
        try:
            _or_exit(stage, lambda: run_trial(stage, main.__wrapped__, overrides, "toy", "toy"))
        except SystemExit as end:
            words.write(f"{end.code}\n")
            raise SystemExit(1) from None


@dataclass(frozen=True)
class Outcome:
    """begun: units of work (shards, epochs) that were begun. words: what it said on standard error.
    output: see `Crashes.output`."""

    seconds: float
    begun: int
    killed: bool
    exit_status: int
    words: str
    output: dict[str, str]


class Crashes:
    """Runs and kills the stages of one toy project; `logs` is where they say what they do."""

    def __init__(self, project: Path, logs: Path) -> None:
        self.project, self.logs = make_project(project), logs
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(PRELOADED)

    def run(self, stage: str, *more: str, kill_after: float | None = None) -> Outcome:
        """Run a stage, killed with all its processes after some seconds if it still runs then."""
        log = self.logs / "log.jsonl"
        log.unlink(missing_ok=True)
        overrides = [f"out={OUT[stage]}", *OVERRIDES[stage], *more]
        arguments = (self.project, stage, overrides, log)
        process = self._context.Process(target=run_stage, args=arguments)
        process.start()
        begins = self._wait_for(log, process)
        process.join(kill_after)
        killed = process.is_alive()
        if killed:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        seconds = time.monotonic() - begins
        begun = sum(json.loads(line)["event"] == "begun" for line in log.read_text().splitlines())
        words = log.with_suffix(".err").read_text()
        return Outcome(seconds, begun, killed, process.exitcode, words, self.output(stage))

    def _wait_for(self, log: Path, process) -> float:
        """The moment at which the stage itself begins."""
        while process.is_alive() and not log.is_file():
            time.sleep(0.001)
        return time.monotonic()

    def output(self, stage: str) -> dict[str, str]:
        """{file: SHA-256} of what is published; of the metrics, all but what they cost."""
        found = {}
        for path in sorted((self.project / OUT[stage]).rglob("*")):
            if path.name == "metrics.json":
                metrics = json.loads(path.read_text())
                found[path.name] = repr({k: v for k, v in metrics.items() if k != "cost"})
            elif path.is_file():
                name = path.relative_to(self.project / OUT[stage]).as_posix()
                found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def remove(self, stage: str) -> None:
        """As DVC does before it runs a stage."""
        shutil.rmtree(self.project / OUT[stage], ignore_errors=True)

    def forget(self, stage: str) -> None:
        """The caches, too: the next run begins from nothing."""
        self.remove(stage)
        shutil.rmtree(self.project / ".cache" / Path(OUT[stage]).name, ignore_errors=True)


@dataclass(frozen=True)
class Trial:
    """What one kill did. visible: files that a reader found after it. redone: units of work that
    were begun once more than in a run without a kill."""

    moment: float
    visible: dict[str, str]
    redone: int
    final: dict[str, str]


def trials(crashes: Crashes, stage: str, whole: Outcome, count: int, seed: int) -> list[Trial]:
    """Kill a stage `count` times at moments drawn over the length of a whole run, and let it go
    on. A run that ends before its moment is no trial."""
    rng, found = random.Random(seed), []
    while len(found) < count:
        crashes.forget(stage)
        moment = rng.uniform(0, whole.seconds)
        killed = crashes.run(stage, kill_after=moment)
        if not killed.killed:
            continue
        redone, final = 0, killed.output
        if final != whole.output:  # else it was killed on its way out, with nothing left to do
            crashes.remove(stage)
            again = crashes.run(stage)
            redone, final = killed.begun + again.begun - whole.begun, again.output
        found.append(Trial(moment, killed.output, redone, final))
    return found
