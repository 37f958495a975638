"""A run's student as a model to ship: two ONNX files, the weights to go on from, what made them,
and what they reached."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from facefoundry.deploy import FP32, INT8
from facefoundry.errors import FoundryError
from facefoundry.model_card import table
from facefoundry.model_dir import CARD, SPEC, WEIGHTS
from facefoundry.results import STAGES, percent, percent_with_deviation, pick, read_json, size

PRETRAINED = Path("pretrained")
CHANGES = "conf.diff"
FILES = {FP32: "model.onnx", INT8: "model.int8.onnx"}
LIMITS = {FP32: 4_500_000, INT8: 1_000_000}  # bytes


def release(name: str, root: Path = Path(), out: Path = PRETRAINED) -> Path:
    """Write `out/<name>` from the finished pipeline under `root`; return the directory. Changes of
    conf/ since the commit, as a profile makes them, go with it.

    Raises FoundryError where a stage has not run, or a file is larger than a model to ship may be.
    """
    quantized, distilled = root / STAGES["quantize"], root / STAGES["distill"]
    metrics = read_json(quantized / "metrics.json")
    if metrics is None:
        raise FoundryError(f"{quantized}: nothing to release; run the pipeline first")
    for file, limit in LIMITS.items():
        if (quantized / file).stat().st_size > limit:
            raise FoundryError(
                f"{quantized / file}: more than {limit:,} bytes; choose a smaller net"
            )
    target = out / name
    target.mkdir(parents=True, exist_ok=True)
    for source, copy in FILES.items():
        shutil.copy(quantized / source, target / copy)
    for file in (SPEC, WEIGHTS):
        shutil.copy(distilled / file, target / file)
    shutil.copy(root / "params.yaml", target / "params.yaml")
    changes = git(root, "diff", "HEAD", "--", "conf")  # those of a profile, say
    (target / CHANGES).unlink(missing_ok=True)
    if changes:
        (target / CHANGES).write_text(changes, "utf-8")
    card = (distilled / CARD).read_text("utf-8")
    (target / CARD).write_text(f"{card}\n{figures(metrics, commit(root), bool(changes))}", "utf-8")
    return target


def figures(metrics: Mapping[str, Any], revision: str, changed: bool) -> str:
    """The part of the card that says what was measured, and what makes the model again; changed:
    conf/ was another than the revision's."""
    made = "the `params.yaml` beside this card" + (f" and `git apply {CHANGES}`" if changed else "")
    return f"""## Figures

{table(("file", "benchmark", "accuracy", "TAR@FMR 1e-3", "bytes", "p50"), list(_rows(metrics)))}

Measured by the run that made these files, from commit {revision} with {made}:
`dvc repro`, then `facefoundry release`. Latency is of one face on the machine of that run.
"""


def _rows(metrics: Mapping[str, Any]) -> Iterator[list[str]]:
    for source, key in ((FP32, "fp32"), (INT8, "int8")):
        row = metrics[key]
        for name in (name for name in row if pick(row, name, "accuracy") is not None):
            yield [
                FILES[source],
                name,
                percent_with_deviation(row[name]),
                percent(pick(row, name, "tar_at_fmr_1e-3")),
                size(row["bytes"]),
                f"{row['latency_ms_p50']:.2f} ms",
            ]


def commit(root: Path) -> str:
    """The revision of the sources, with `+` where they were changed since."""
    return git(root, "describe", "--always", "--dirty=+").strip() or "unknown"


def git(root: Path, *arguments: str) -> str:
    """What git says; nothing where there is no repository."""
    command = ["git", *arguments]
    return subprocess.run(command, cwd=root, capture_output=True, text=True, check=False).stdout
