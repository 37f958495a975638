"""Several trainings in one picture: how the error on held-out identities falls with the steps.

Each training's held-out identities are its own data set's, so the shapes compare, not the heights.

Run: python benchmarks/learning_curves.py --out curves.svg NAME=models/train/curves.json ...
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure


def draw(curves: dict[str, list[dict[str, float]]], out: Path) -> None:
    """Equal error rate in percent over steps, a line for each training."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name, points in curves.items():
        steps = [point["step"] for point in points]
        axes.plot(steps, [100 * point["val_eer"] for point in points], label=name)
    axes.set(xlabel="step of 64 images", ylabel="EER of held-out identities, %", yscale="log")
    axes.grid(alpha=0.3, which="both")
    axes.legend(frameon=False)
    figure.savefig(out)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("curves", nargs="+", metavar="NAME=CURVES_JSON")
    parser.add_argument("--out", type=Path, default=Path("curves.svg"))
    arguments = parser.parse_args()
    named = dict(argument.partition("=")[::2] for argument in arguments.curves)
    draw({name: json.loads(Path(path).read_text()) for name, path in named.items()}, arguments.out)
    print(arguments.out)


if __name__ == "__main__":
    main()
