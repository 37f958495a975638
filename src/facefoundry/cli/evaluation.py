"""Comparison of runs, and benchmarks from the network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            help="Two or more runs, the first being the base: a folder (a project, or one with"
            " scores.npz), a git revision or a DVC experiment."
        ),
    ],
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    mlflow: Annotated[
        bool, typer.Option("--mlflow", help="Log the comparison to MLflow, too.")
    ] = False,
) -> None:
    """Say whether runs are better or worse than the first, or that it cannot be told.

    A paired bootstrap on the same pairs: 95 % intervals of the differences in accuracy, AUC, EER
    and TAR, whole identities resampled.
    """
    from facefoundry.compare import compare_scores, print_differences, read_run
    from facefoundry.errors import FoundryError

    if len(runs) < 2:
        raise FoundryError("compare needs two runs; `.` is the one in this folder")
    base = read_run(runs[0])
    found = {run: compare_scores(base, read_run(run), seed) for run in runs[1:]}
    print_differences(runs[0], found, as_json=json)
    if mlflow:
        from facefoundry.stage import log_comparison

        log_comparison(runs[0], found)


def benchmarks_fetch(
    name: Annotated[str, typer.Argument(help="The benchmark: lfw.")],
    root: Annotated[Path, typer.Option(help="Folder of benchmarks; see params.yaml.")] = Path(
        "../shared/benchmarks"
    ),
    downloads: Annotated[Path, typer.Option(help="Where the photographs are kept.")] = Path(
        ".cache/benchmarks"
    ),
) -> None:
    """Download a benchmark, align its faces, and write its folder: images and pairs.csv.

    Needs a network; for evaluation only. lfw: 6,000 pairs in ten folds, by scikit-learn's loader.
    """
    from facefoundry.fetch import fetch

    print(fetch(name, root, downloads))


COMMANDS = [compare, benchmarks_fetch]
