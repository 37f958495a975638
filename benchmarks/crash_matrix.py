"""Every long stage killed at random moments: what was seen, what was redone, what came out.

python benchmarks/crash_matrix.py --kills 20
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from crashing import OUT, Crashes, trials


def row(crashes: Crashes, stage: str, kills: int, seed: int) -> str:
    whole = crashes.run(stage)
    found = trials(crashes, stage, whole, kills, seed)
    crashes.run(stage)
    partial = sum(trial.visible not in ({}, whole.output) for trial in found)
    equal = sum(trial.final == whole.output for trial in found)
    redone = max(trial.redone for trial in found)
    mean = sum(trial.redone for trial in found) / kills
    return (
        f"| {stage} | {whole.begun} | {whole.seconds:.1f} s | {kills} | {partial} |"
        f" {redone} (mean {mean:.2f}) | {equal} of {kills} |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="of each stage")
    parser.add_argument("--stages", nargs="+", choices=list(OUT), default=list(OUT))
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(
        "| stage | shards or epochs | a whole run | kills | partial outputs seen |"
        " redone at most | same SHA-256 |\n|---|---|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryDirectory() as logs:
        crashes = Crashes(Path(directory), Path(logs))
        for stage in options.stages:
            print(row(crashes, stage, options.kills, options.seed), flush=True)


if __name__ == "__main__":
    main()
