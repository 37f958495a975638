"""Figures about limits: galleries, bad images, strangers, groups, probabilities, the map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.ticker import MaxNLocator

from facefoundry.report.figures import (
    GENUINE,
    IMPOSTOR,
    INK,
    MODEL,
    SFACE,
    STYLE,
    as_svg,
    legend_above,
    new_axes,
)
from facefoundry.report.html import Html
from facefoundry.results import Metrics
from facefoundry.scores import EDGES

MARKERS = "osD^vP*X<>"


@mpl.rc_context(STYLE)
def cmc_curve(shares: Sequence[float], name: str) -> Html:
    """Share of probes whose own template is among the first k."""
    figure, axes = new_axes("rank", "probes found by then")
    ranks = range(1, len(shares) + 1)
    axes.plot(ranks, shares, color=MODEL, marker="o" if len(shares) < 12 else "", markersize=3.5)
    axes.set(ylim=(0, 1.02))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return as_svg(figure, f"cmc {name}")


@mpl.rc_context(STYLE)
def open_set_curve(rows: Sequence[Metrics], name: str) -> Html:
    """FNIR over gallery size, a line for each FPIR; None where none was measured."""
    figure, axes = new_axes("identities in the gallery", "FNIR (own identity missed)")
    for fpir, line in zip(sorted({row["fpir"] for row in rows}, reverse=True), "-:", strict=False):
        known = [row for row in rows if row["fpir"] == fpir and row["fnir"] is not None]
        sizes, fnir = [row["gallery"] for row in known], [row["fnir"] for row in known]
        if known:
            axes.plot(sizes, fnir, line, color=MODEL, marker="o", label=f"FPIR {fpir:g}")
    axes.set_xscale("log")
    axes.set(ylim=(0, 1.02))
    legend_above(axes)
    return as_svg(figure, f"open set {name}")


@mpl.rc_context(STYLE)
def degradation(factor: Metrics, clean: Metrics, name: str) -> Html:
    """EER, and FMR and FNMR at the model's threshold, as one factor gets harder."""
    figure, axes = new_axes(factor["unit"], "share of pairs", height=2.6)
    rows = [clean, *factor["levels"]]
    labels = ["clean", *(f"{row['level']:g}" for row in factor["levels"])]
    for measure, label, colour, line in (
        ("fnmr", "FNMR", GENUINE, "-"),
        ("fmr", "FMR", IMPOSTOR, "--"),
        ("eer", "EER", INK, ":"),
    ):
        if rows[0][measure] is not None:
            values = [row[measure] for row in rows]
            axes.plot(labels, values, line, color=colour, marker="o", markersize=3.5, label=label)
    axes.set(ylim=(0, 1.02))
    legend_above(axes)
    return as_svg(figure, f"degradation {name}")


@mpl.rc_context(STYLE)
def strangers(sets: Mapping[str, Metrics], threshold: float | None) -> Html:
    """How alike the model finds different strangers of one kind."""
    figure, axes = new_axes("similarity (cosine) of two different images", "share of pairs, %")
    lines = zip(sets.items(), ("-", "--", ":", "-."), strict=False)
    for (name, row), line in lines:
        shares = 100 * np.array(row["histogram"])
        axes.stairs(shares, EDGES, color=IMPOSTOR, linestyle=line, linewidth=1.6, label=name)
    if threshold is not None:
        axes.axvline(threshold, color=INK, linewidth=1.2, label="threshold")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.05, 1), ncols=2, fontsize=9)
    return as_svg(figure, "strangers")


@mpl.rc_context(STYLE)
def group_bars(rows: Sequence[Metrics], measure: str, name: str) -> Html:
    """One error rate by group, with its interval."""
    known = [row for row in rows if row[measure] is not None][::-1]
    figure, axes = new_axes(measure.upper(), "", height=0.9 + 0.34 * len(known))
    for place, row in enumerate(known):
        rate = row[measure]
        axes.plot([rate["low"], rate["high"]], [place, place], color=MODEL, linewidth=2.4)
        axes.plot(rate["rate"], place, "o", color=MODEL, markersize=6)
    axes.set_yticks(range(len(known)), [row["group"] for row in known])
    axes.set(xlim=(0, None), ylim=(-0.6, len(known) - 0.4))
    return as_svg(figure, f"groups {name} {measure}")


@mpl.rc_context(STYLE)
def reliability_plot(rows: Sequence[Metrics], name: str) -> Html:
    """Share of genuine pairs over the probability that was given; right is on the diagonal."""
    figure, axes = new_axes("probability given", "genuine among these pairs")
    axes.plot([0, 1], [0, 1], color=INK, linewidth=1, linestyle=":")
    given, seen = [row["predicted"] for row in rows], [row["observed"] for row in rows]
    axes.plot(given, seen, color=MODEL, marker="o", markersize=4)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    return as_svg(figure, f"reliability {name}")


@mpl.rc_context(STYLE)
def embedding_map(points: Mapping[str, Sequence[Any]]) -> Html:
    """The images in a plane, an identity by its colour and mark; its number shows on hovering."""
    figure, axes = new_axes("", "", height=4.2)
    identity = np.array(points["identity"])
    x, y = np.array(points["x"]), np.array(points["y"])
    for number in np.unique(identity).tolist():
        own, colour = identity == number, (MODEL, SFACE, GENUINE, IMPOSTOR)[number % 4]
        mark = MARKERS[number // 2 % len(MARKERS)]
        axes.plot(
            x[own], y[own], mark, color=colour, markersize=6, alpha=0.8, gid=f"identity {number}"
        )
    axes.set(xticks=[], yticks=[])
    drawing = as_svg(figure, "embedding map")
    for number in np.unique(identity).tolist():
        group = f'<g id="identity {number}">'
        named = f'<g id="identity-{number}"><title>identity {number}</title>'
        drawing = Html(drawing.replace(group, named))
    return drawing
