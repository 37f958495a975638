"""Sections about the model: training, verification, errors."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from facefoundry.report import figures
from facefoundry.report.html import (
    Html,
    figure,
    grid,
    not_run,
    picture,
    section,
    table,
    tag,
)
from facefoundry.report.sources import Sources
from facefoundry.results import Metrics, evaluated_sets, percent, pick, set_title
from facefoundry.scores import Scores
from facefoundry.verification import confusion, pairs_needed, roc

SLIDER_POINTS = 160
MODEL_LABELS = {"sface": "SFace (reference)", "pixels": "raw pixels (floor)"}


def training(sources: Sources) -> Html:
    content = []
    for stage, title in (("train", "Teacher"), ("distill", "Student")):
        points = sources.curves[stage]
        names = dict.fromkeys(key for point in points for key in point if key != "step")
        drawn = [
            figure(figures.curve(points, name, f"{title}: {name.replace('_', ' ')}"))
            for name in names
            if any(point.get(name) is not None for point in points)
        ]
        content += [tag("h3", title), grid(drawn) if drawn else not_run(stage)]
    return section("training", "Training curves", *content)


def verification(sources: Sources) -> Html:
    sets = evaluated_sets(sources.metrics)
    content: list[str] = []
    note = pick(sources.metrics.get("evaluate"), "benchmarks_note")
    if note:
        content.append(tag("p", note, "absent"))
    for name, row in sets.items():
        content += [tag("h3", set_title(name)), _accuracy_table(row), _rates_table(row)]
        if name in sources.scores:
            content.append(_set_figures(sources, name))
    if not sets:
        content.append(not_run("evaluate"))
    else:
        content += [tag("p", PROTOCOL, "note"), *_against_previous(sources)]
    return section("verification", "Are two faces the same identity?", *content)


PROTOCOL = (
    "Protocol: each fold is judged at the threshold that is best on the other folds; the deviation"
    " is over folds. This model: the embeddings of image and mirror image are added and"
    " normalised; the references are measured without the mirror image. TAR@FMR needs at least"
    " 3/FMR impostor pairs."
)


def _against_previous(sources: Sources) -> list[Html]:
    """Every measure beside the run before; nothing where there is none on the same pairs."""
    previous = sources.previous
    if previous is None or not previous.differences:
        return []
    rows = [
        (
            f"{set_title(d.pair_set)}: {d.measure}",
            f"{d.base:.4f}",
            f"{d.other:.4f}",
            f"{d.low:+.4f} to {d.high:+.4f}",
            d.verdict,
        )
        for d in previous.differences
    ]
    names = ("", "the run before", "this run", "difference, 95 % interval", "verdict")
    return [tag("h3", f"Against the run before: {previous.label}"), table(names, rows)]


def _accuracy_table(row: Metrics) -> Html:
    models = {"this model": row} | {
        MODEL_LABELS.get(key, key): values
        for key, values in row.items()
        if pick(values, "accuracy") is not None
    }
    rows = [
        (
            label,
            f"{percent(values['accuracy'])} ± {100 * values['accuracy_std']:.2f}",
            percent(values["eer"]),
            f"{values['auc']:.4f}",
            _rate(values, 1e-2),
            _rate(values, 1e-3),
        )
        for label, values in models.items()
    ]
    names = ("", "accuracy", "EER", "AUC", "TAR at FMR 1e-2", "TAR at FMR 1e-3")
    return table(names, rows)


def _rates_table(row: Metrics) -> Html:
    """TAR and FNMR of the model at every FMR, with intervals; nothing for a run without them."""
    rows = [
        (f"{r['fmr']:g}", f"needs {r['needs_pairs']:,} impostor pairs", "", "")
        if r["tar"] is None
        else (
            f"{r['fmr']:g}",
            percent(r["tar"]),
            percent(1 - r["tar"]),
            f"{percent(r['low'])} to {percent(r['high'])}",
        )
        for r in row.get("rates", ())
    ]
    names = ("FMR", "TAR", "FNMR", "TAR, 95 % interval")
    return table(names, rows) if rows else Html()


def _rate(values: Metrics, fmr: float) -> str:
    tar = values.get(f"tar_at_fmr_1e{round(np.log10(fmr))}")
    return f"needs {pairs_needed(fmr):,} impostor pairs" if tar is None else percent(tar)


def _set_figures(sources: Sources, name: str) -> Html:
    scores = sources.scores[name]
    point = sources.operating_point
    threshold = point["threshold"] if point else None
    return grid(
        [
            figure(figures.roc_curve(scores, name), "ROC: higher and further left is better."),
            figure(figures.det_curve(scores, name), "DET: lower and further left is better."),
            figure(
                figures.histogram(scores, threshold, name),
                "Similarity of the pairs: the less the two overlap, the better.",
            ),
        ]
    )


def decisions(sources: Sources) -> Html:
    point, name = sources.operating_point, sources.main_set
    content: list[str] = []
    if point is None:
        content.append(
            tag(
                "p", "No threshold: the held-out pairs are missing or too few to set one.", "absent"
            )
        )
    if point is not None and name in sources.scores:
        content += _matrix_and_slider(sources.scores[name], point, name)
    table_rows = pick(sources.models.get("train"), "thresholds") or []
    if table_rows:
        content += [
            tag("h3", "Thresholds, set on held-out synthetic identities"),
            _threshold_table(table_rows),
        ]
    return section("decisions", "Decisions at the chosen threshold", *content)


def _matrix_and_slider(scores: Scores, point: Metrics, name: str) -> list[str]:
    counts = confusion(scores.models["model"], scores.same, point["threshold"])
    lead = (
        f"{set_title(name)}, at similarity {point['threshold']:.3f} (meant for FMR"
        f" {point['fmr']:g};"
        f" here {percent(counts['false_accept'] / max((~scores.same).sum(), 1))} of impostor pairs"
        " pass): precision"
        f" {percent(counts['precision'], 1)}, recall {percent(counts['recall'], 1)}, F1"
        f" {counts['f1']:.3f}. A benchmark never sets the threshold."
    )
    return [tag("p", lead), _matrix(counts), _slider(scores, point["threshold"])]


def _matrix(counts: dict[str, float]) -> Html:
    def cell(key: str, css: str) -> str:
        label = key.replace("_", " ")
        return f'<div class="{css}"><b>{counts[key]:,}</b><small>{label}</small></div>'

    return Html(
        '<div class="matrix"><span></span><span>accepted</span><span>rejected</span>'
        f"<span>genuine</span>{cell('true_accept', 'good')}{cell('false_reject', 'bad')}"
        f"<span>impostor</span>{cell('false_accept', 'bad')}{cell('true_reject', 'good')}</div>"
    )


def _slider(scores: Scores, threshold: float) -> Html:
    """A slider over thresholds; shown by the page's script."""
    curve = roc(scores.models["model"], scores.same)
    wanted = np.linspace(curve.threshold[-1], curve.threshold[1], SLIDER_POINTS)
    rows = np.searchsorted(-curve.threshold, -wanted, side="right") - 1
    points = [
        [round(float(t), 4), round(float(curve.fmr[r]), 5), round(float(curve.tar[r]), 5)]
        for t, r in zip(wanted, rows, strict=True)
    ]
    start = int(np.argmin(np.abs(wanted - threshold)))
    data = html.escape(json.dumps(points), quote=True)
    return Html(
        f'<div class="slider" hidden data-points="{data}" data-start="{start}">'
        '<label>Try another threshold <input type="range" min="0" step="1"></label>'
        "<output></output></div>"
    )


def _threshold_table(rows: Sequence[dict[str, Any]]) -> Html:
    cells = [
        (
            f"{row['fmr']:g}",
            "-" if row["threshold"] is None else f"{row['threshold']:.4f}",
            f"needs {pairs_needed(row['fmr']):,} impostor pairs"
            if row["tar"] is None
            else percent(row["tar"]),
            f"{row['impostor_pairs']:,}",
        )
        for row in rows
    ]
    return table(("FMR", "threshold", "TAR", "impostor pairs"), cells)


def hardest(sources: Sources) -> Html:
    path = sources.file("evaluate", "pairs.png")
    if path is None:
        return section("hardest", "Hardest pairs", not_run("evaluate"))
    caption = (
        "One pair above the other. First two rows: the same identity, least alike to the model."
        " Last two rows: different identities, most alike. Benchmark photographs are for"
        " evaluation only: do not pass this page on."
    )
    sheet = picture(path, "hardest genuine and impostor pairs")
    return section("hardest", "Hardest pairs", figure(sheet, caption))
