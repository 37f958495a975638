"""The page's figures once more as PNG files for print, in the colours of the light page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.colors import to_hex, to_rgba, to_rgba_array
from matplotlib.figure import Figure

DPI = 200
KINDS = ("color", "facecolor", "edgecolor", "markerfacecolor", "markeredgecolor")
Colours = Mapping[str, str]

_drawn: ContextVar[dict[str, Figure] | None] = ContextVar("drawn", default=None)


@contextmanager
def collecting() -> Iterator[dict[str, Figure]]:
    """Every figure that is drawn inside the block, by its name."""
    drawn: dict[str, Figure] = {}
    token = _drawn.set(drawn)
    try:
        yield drawn
    finally:
        _drawn.reset(token)


def collect(name: str, figure: Figure) -> None:
    if (drawn := _drawn.get()) is not None:
        drawn[name] = figure


def write_figures(drawn: Mapping[str, Figure], colours: Colours, folder: Path) -> None:
    """`folder/<name>.png` for each figure, in place of those of an older page. colours: what each
    colour of the figures is in print. The figures are recoloured."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.png"):
        old.unlink()
    for name, figure in drawn.items():
        for artist in figure.findobj():
            _recolour(artist, colours)
        figure.savefig(folder / file_name(name), dpi=DPI, facecolor="white")


def file_name(name: str) -> str:
    return re.sub(r"[^\w.]+", "-", name.lower()).strip("-") + ".png"


def _recolour(artist: Artist, colours: Colours) -> None:
    for kind in KINDS:
        if hasattr(artist, f"get_{kind}") and hasattr(artist, f"set_{kind}"):
            found = to_rgba_array(getattr(artist, f"get_{kind}")())
            printed = [to_rgba(colours.get(to_hex(c), tuple(c)), c[3]) for c in found]
            if not np.array_equal(found, printed):
                getattr(artist, f"set_{kind}")(printed[0] if len(printed) == 1 else printed)
