"""The page's figures as inline SVG whose colours follow the page, dark or light.

Matplotlib draws with stand-in colours, which become CSS variables afterwards.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from facefoundry.report.html import Html
from facefoundry.report.print_figures import collect
from facefoundry.report.style import LIGHT
from facefoundry.scores import EDGES, Scores
from facefoundry.verification import roc

INK, FAINT = "#010203", "#010204"
MODEL, SFACE, PIXELS = "#010205", "#010206", "#010207"
GENUINE, IMPOSTOR = "#010208", "#010209"
CSS_COLOURS = {
    INK: "var(--ink)",
    FAINT: "var(--line)",
    MODEL: "var(--model)",
    SFACE: "var(--sface)",
    PIXELS: "var(--pixels)",
    GENUINE: "var(--genuine)",
    IMPOSTOR: "var(--impostor)",
}
PRINT_COLOURS = {stand_in: LIGHT[css[4:-1]] for stand_in, css in CSS_COLOURS.items()}
# scores.npz's name of a model -> its label, colour and line
SERIES = {
    "model": ("this model", MODEL, "-"),
    "sface": ("SFace", SFACE, "--"),
    "pixels": ("raw pixels", PIXELS, ":"),
}
# where the mean of a semi-hard data set lies, and the most for that of separate identities
GENUINE_AIM, IMPOSTOR_AIM = (0.5, 0.6), 0.3
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 10,
    "text.color": INK,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
}


@mpl.rc_context(STYLE)
def curve(points: Sequence[dict[str, float]], name: str, title: str) -> Html:
    """One value of a training run over its steps."""
    known = [(point["step"], point[name]) for point in points if point.get(name) is not None]
    figure, axes = new_axes("step", "")
    steps, values = zip(*known, strict=True)
    axes.plot(steps, values, color=MODEL, marker="o" if len(steps) < 12 else "", markersize=3.5)
    axes.set_title(title, loc="left", fontsize=10)
    return as_svg(figure, f"curve {title}")


@mpl.rc_context(STYLE)
def roc_curve(scores: Scores, name: str) -> Html:
    """TAR over FMR, FMR on a log scale down to one impostor pair."""
    figure, axes = new_axes("FMR (impostor pairs accepted)", "TAR (genuine pairs accepted)")
    for model, similarity in scores.models.items():
        label, colour, line = SERIES.get(model, (model, INK, "-."))
        points = roc(similarity, scores.same)
        axes.plot(points.fmr, points.tar, line, color=colour, label=label, drawstyle="steps-post")
    axes.set_xscale("log")
    axes.set(xlim=(1 / (~scores.same).sum(), 1), ylim=(0, 1.02))
    legend_above(axes)
    return as_svg(figure, f"roc {name}")


@mpl.rc_context(STYLE)
def det_curve(scores: Scores, name: str) -> Html:
    """FNMR over FMR, both on a log scale: lower and further left is better."""
    figure, axes = new_axes("FMR (impostor pairs accepted)", "FNMR (genuine pairs rejected)")
    for model, similarity in scores.models.items():
        label, colour, line = SERIES.get(model, (model, INK, "-."))
        points = roc(similarity, scores.same)
        axes.plot(points.fmr, points.fnmr, line, color=colour, label=label)
    floor_x, floor_y = 1 / (~scores.same).sum(), 1 / scores.same.sum()
    axes.plot([floor_x, 1], [floor_x, 1], color=FAINT, linewidth=1)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set(xlim=(floor_x, 1), ylim=(floor_y, 1.1))
    legend_above(axes)
    return as_svg(figure, f"det {name}")


@mpl.rc_context(STYLE)
def histogram(scores: Scores, threshold: float | None, name: str) -> Html:
    """How similar the model finds genuine and impostor pairs."""
    figure, axes = new_axes("similarity (cosine)", "share of pairs, %")
    similarity = scores.models["model"]
    edges = np.linspace(min(-0.2, float(similarity.min())), 1, 61).tolist()
    for chosen, label, colour in (
        (scores.same, "genuine", GENUINE),
        (~scores.same, "impostor", IMPOSTOR),
    ):
        share = np.full(chosen.sum(), 100 / chosen.sum())
        axes.hist(
            similarity[chosen],
            edges,
            weights=share,
            label=label,
            histtype="stepfilled",
            alpha=0.45,
            facecolor=colour,
            edgecolor=colour,
            linewidth=1.4,
        )
    if threshold is not None:
        axes.axvline(threshold, color=INK, linewidth=1.2, linestyle="--", label="threshold")
    axes.legend(loc="upper right")
    return as_svg(figure, f"histogram {name}")


@mpl.rc_context(STYLE)
def face_similarity(shares: Mapping[str, Sequence[float]]) -> Html:
    """How alike the judge of curation finds the faces: shares of genuine and impostor pairs in the
    bins of EDGES, beside where the literature wants their means."""
    figure, axes = new_axes("similarity (cosine)", "share of pairs, %")
    for kind, colour in (("genuine", GENUINE), ("impostor", IMPOSTOR)):
        axes.stairs(100 * np.array(shares[kind]), EDGES, color=colour, linewidth=1.6, label=kind)
    axes.axvspan(*GENUINE_AIM, color=GENUINE, alpha=0.18, linewidth=0)
    axes.axvline(IMPOSTOR_AIM, color=IMPOSTOR, linewidth=1.2, linestyle="--")
    legend_above(axes)
    return as_svg(figure, "face similarity")


@mpl.rc_context(STYLE)
def bars(values: dict[str, float], unit: str, title: str) -> Html:
    """Horizontal bars, the first on top."""
    figure, axes = new_axes(unit, "", height=0.7 + 0.3 * len(values))
    names = list(values)[::-1]
    numbers: NDArray[np.float64] = np.array([values[name] for name in names], float)
    drawn = axes.barh(names, numbers, color=MODEL, height=0.62)
    axes.bar_label(drawn, [f"{number:,.4g}" for number in numbers], padding=3, fontsize=8.5)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.16)
    return as_svg(figure, f"bars {title}")


def new_axes(x_label: str, y_label: str, height: float = 3.0) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(4.2, height), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=x_label, ylabel=y_label)
    axes.set_axisbelow(True)
    return figure, axes


def legend_above(axes: Axes) -> None:
    axes.legend(loc="lower left", bbox_to_anchor=(-0.05, 1), ncols=3, handlelength=1.8, fontsize=9)


def as_svg(figure: Figure, name: str) -> Html:
    """The figure as an <svg> element; `name` makes its inner ids unique and the same each time."""
    collect(name, figure)
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', 'role="img"', drawing, count=1)
    # matplotlib names its own fonts; the page's are meant
    drawing = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font-size: \1", drawing)
    for stand_in, variable in CSS_COLOURS.items():
        drawing = drawing.replace(stand_in, variable)
    return Html(drawing)
