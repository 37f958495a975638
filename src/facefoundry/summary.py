"""`python -m facefoundry.summary`: what the pipeline reached, as one table in the terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from facefoundry.errors import FoundryError
from facefoundry.results import (
    REPORT,
    STAGES,
    Metrics,
    dataset_size,
    duration,
    evaluated_sets,
    milliseconds,
    percent_with_deviation,
    pick,
    read_metrics,
    seconds_by_stage,
    size,
)


def main(root: Path = Path()) -> int:
    """Print the table; returns the exit status."""
    try:
        results = read_metrics(root)
    except FoundryError as error:
        print(error, file=sys.stderr)
        return 1
    if not results:
        print("nothing has run here yet; run `make repro` first", file=sys.stderr)
        return 1
    console = Console()
    console.print(summary_table(results))
    report = root / REPORT
    console.print(f"report: {report if report.is_file() else f'{report} (not written yet)'}")
    return 0


def summary_table(results: Mapping[str, Metrics]) -> Table:
    table = Table("", "", title="facefoundry", show_header=False)
    for name, value in summary_rows(results):
        table.add_row(name, value)
    return table


def summary_rows(results: Mapping[str, Metrics]) -> Iterator[tuple[str, str]]:
    """(what, value) for each line of the table."""
    identities, images = dataset_size(results)
    yield "identities", "not run" if identities is None else f"{identities:,}"
    yield "images", "not run" if images is None else f"{images:,}"
    sets = evaluated_sets(results)
    if not sets:
        yield "accuracy", "not run"
    for name, row in sets.items():
        yield f"accuracy, {name}", _accuracy(row)
    student = pick(results.get("quantize"), "int8")
    yield "model size, INT8", size(pick(student, "bytes")) if student else "not run"
    yield "latency, median", milliseconds(pick(student, "latency_ms_p50")) if student else "not run"
    costs = seconds_by_stage(results)
    for name in STAGES:
        yield f"time, {name}", duration(costs[name]) if name in costs else "not run"
    yield "time, all stages", duration(sum(costs.values()))


def _accuracy(row: Metrics) -> str:
    references = [
        f"{label} {percent_with_deviation(row[key])}"
        for key, label in (("sface", "SFace"), ("pixels", "pixels"))
        if key in row
    ]
    beside = f"  ({', '.join(references)})" if references else ""
    return percent_with_deviation(row) + beside


if __name__ == "__main__":
    sys.exit(main())
