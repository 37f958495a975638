"""One progress display: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

T = TypeVar("T")

LINE_EVERY_SECONDS = 15.0


def track(
    items: Iterable[T], label: str, total: int | None = None, unit: str = "it"
) -> Iterator[T]:
    """Yield from `items`, showing count, rate and remaining time on standard error."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        yield from _bar(items, label, total)
    else:
        yield from _lines(items, label, total, unit)


def _bar(items: Iterable[T], label: str, total: int | None) -> Iterator[T]:
    from rich.console import Console

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield from progress.track(items, total=total, description=label)


def _lines(items: Iterable[T], label: str, total: int | None, unit: str) -> Iterator[T]:
    start = last = time.monotonic()
    count = 0
    for count, item in enumerate(items, 1):
        yield item
        now = time.monotonic()
        if now - last >= LINE_EVERY_SECONDS:
            last = now
            print(_line(label, count, total, unit, now - start), file=sys.stderr, flush=True)
    if last != start:
        print(_line(label, count, total, unit, time.monotonic() - start), file=sys.stderr)


def _line(label: str, count: int, total: int | None, unit: str, seconds: float) -> str:
    rate = count / max(seconds, 1e-9)
    left = f", {(total - count) / rate:.0f} s left" if total and rate else ""
    return f"{label}: {count}/{total or '?'} ({rate:.1f} {unit}/s{left})"
