"""One progress display: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, field
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from facefoundry.journal import record

T = TypeVar("T")

LINE_EVERY_SECONDS = 15.0
LINES = 4  # over which a rate is told: what a killed run left goes by at once


@dataclass
class Tally:
    """What the items of a display came to: images made since it began (seconds since 1970), those
    that a killed run had made before, and how many were rejected for which reason."""

    images: int = 0
    kept: int = 0
    begun: float = field(default_factory=time.time)
    rejected: Counter[str] = field(default_factory=Counter)

    def text(self, seconds: float) -> str:
        reasons = ", ".join(f"{reason} {count}" for reason, count in self.rejected.items())
        text = f"{self.images} images, {self.images / max(seconds, 1e-9):.1f} images/s"
        text += f", {self.kept} kept from before" if self.kept else ""
        return f"{text}; rejected: {reasons}" if reasons else text


def track(
    items: Iterable[T],
    label: str,
    total: int | None = None,
    unit: str = "it",
    tally: Tally | None = None,
) -> Iterator[T]:
    """Yield from `items`, showing count, rate and remaining time on standard error.

    tally: added to by whoever takes the items, and shown with them.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        yield from _bar(items, label, total, tally)
    else:
        yield from _lines(items, label, total, unit, tally)


def _bar(items: Iterable[T], label: str, total: int | None, tally: Tally | None) -> Iterator[T]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[tally]}"),
    )
    start = time.monotonic()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=total, tally="")
        for item in items:
            yield item
            text = tally.text(time.monotonic() - start) if tally else ""
            progress.update(task, advance=1, tally=text)


def _lines(
    items: Iterable[T], label: str, total: int | None, unit: str, tally: Tally | None
) -> Iterator[T]:
    """A line every so often, and at the end where there was one before: each count once."""
    start, count = time.monotonic(), 0
    told = deque([(start, 0)], maxlen=LINES + 1)

    def tell(count: int) -> None:
        now = time.monotonic()
        told.append((now, count))
        before, done = told[0]
        made = f"; {tally.text(now - start)}" if tally else ""
        rate = (count - done) / max(now - before, 1e-9)
        left = f", {(total - count) / rate:.0f} s left" if total and rate else ""
        text = f"{label}: {count}/{total or '?'} ({rate:.1f} {unit}/s{left}){made}"
        print(text, file=sys.stderr, flush=True)
        record("progress", label=label, done=count, total=total, tally=tally and vars(tally))

    for count, item in enumerate(items, 1):
        yield item
        if time.monotonic() - told[-1][0] >= LINE_EVERY_SECONDS:
            tell(count)
    if told[-1][1] not in (0, count):
        tell(count)
