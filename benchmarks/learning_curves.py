"""Several trainings in one picture: how the error on held-out identities falls with the steps, or,
of trainings of equal length judged by the same held-out identities, with those trained on.

Where the held-out identities are each data set's own, the shapes compare, not the heights.

Run: python benchmarks/learning_curves.py --out curves.svg NAME=models/train ...
     python benchmarks/learning_curves.py --against identities NAME=models/train ...
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

Points = list[dict[str, float]]


def read(model: Path, name: str) -> Any:
    """A file of a model directory: `curves.json` or `metrics.json`."""
    return json.loads((model / name).read_text())


def over_steps(axes: Axes, curves: dict[str, Points]) -> None:
    """Equal error rate in percent over steps, a line for each training."""
    for name, points in curves.items():
        steps = [point["step"] for point in points]
        axes.plot(steps, [100 * point["val_eer"] for point in points], label=name)
    axes.set(xlabel="step of 64 images", yscale="log")


def over_identities(axes: Axes, trainings: list[tuple[int, Points]]) -> None:
    """Equal error rate in percent over the identities trained on, a line for each step at which all
    trainings were judged."""
    trainings = sorted(trainings, key=lambda training: training[0])
    seen = [{p["step"]: 100 * p["val_eer"] for p in points} for _, points in trainings]
    for step in sorted(set.intersection(*map(set, seen))):
        errors = [training[step] for training in seen]
        axes.plot([n for n, _ in trainings], errors, "o-", label=f"step {step:.0f}")
    axes.set(xlabel="identities trained on", xscale="log")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="NAME=MODEL_DIRECTORY")
    parser.add_argument("--against", choices=("steps", "identities"), default="steps")
    parser.add_argument("--out", type=Path, default=Path("curves.svg"))
    arguments = parser.parse_args()
    named = {n: Path(p) for n, _, p in (m.partition("=") for m in arguments.models)}
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    axes.set_ylabel("EER of held-out identities, %")
    axes.grid(alpha=0.3, which="both")
    if arguments.against == "steps":
        over_steps(axes, {name: read(model, "curves.json") for name, model in named.items()})
    else:
        models = named.values()
        over_identities(
            axes, [(read(m, "metrics.json")["identities"], read(m, "curves.json")) for m in models]
        )
    axes.legend(frameon=False)
    figure.savefig(arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
