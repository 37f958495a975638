"""Sections about the faces: what was made, what was dropped and why."""

from __future__ import annotations

from collections import Counter

from facefoundry.report import figures
from facefoundry.report.html import (
    Html,
    figure,
    not_run,
    picture,
    section,
    table,
    tag,
)
from facefoundry.report.sources import Sources
from facefoundry.results import percent, pick

SHOWN_REMOVALS = 12
SHEETS = (
    ("align", "Aligned to the 112 x 112 template: what the model sees. One identity in a row."),
    ("curate", "After curation. One identity in a row."),
    ("synthesize", "As synthesized. One identity in a row."),
)


def faces(sources: Sources) -> Html:
    sheets = [
        figure(picture(path, caption), caption)
        for stage, caption in SHEETS
        if (path := sources.file(stage, "preview.png"))
    ]
    # the aligned faces say most; the sheet as made stands beside them where there is one
    shown = [*sheets[:1], *sheets[-1:]] if len(sheets) > 1 else sheets
    return section(
        "faces",
        "Faces by identity",
        tag("p", _said(sources)),
        *(shown or [not_run("synthesize")]),
        _alike(sources),
        _split(sources),
    )


def _alike(sources: Sources) -> Html:
    """How hard the faces are, by an embedder that was not trained on them; empty without one."""
    curate = sources.metrics.get("curate") or {}
    shares = curate.get("similarity_histogram")
    if shares is None:
        return Html("")
    low, high = figures.GENUINE_AIM
    means = [pick(curate, "similarity", f"{kind}_mean") for kind in ("genuine", "impostor")]
    genuine, impostor = ("no pair" if mean is None else f"{mean:.2f}" for mean in means)
    caption = (
        f"Two images of one identity: {genuine} on average (semi-hard would be {low:g} to"
        f" {high:g}, shaded); of two: {impostor} (separate would be under"
        f" {figures.IMPOSTOR_AIM:g}, dashed)."
    )
    return Html(
        tag("h3", "How alike SFace finds what was kept")
        + figure(figures.face_similarity(shares), caption)
    )


def _said(sources: Sources) -> str:
    made, kept = sources.metrics.get("synthesize"), sources.metrics.get("curate")
    if made is None:
        return "No faces have been made yet."
    generators = ", ".join(pick(made, "generators") or ["the generator"])
    start = (
        f"{made['images']:,} faces of {made['identities']:,} identities came from {generators};"
        " no photograph is among them"
    )
    if "import" in (pick(made, "generators") or []):
        start = f"{made['images']:,} faces of {made['identities']:,} identities came from a folder"
    if kept is None:
        return f"{start}; they have not been curated yet."
    return f"{start}; {kept['images']:,} of {kept['identities']:,} identities passed curation."


def _split(sources: Sources) -> Html:
    split = sources.metrics.get("split")
    if split is None:
        return not_run("split")
    rows = [
        (name, f"{count:,}", f"{pick(split, 'images', name) or 0:,}")
        for name, count in (pick(split, "identities") or {}).items()
    ]
    return Html(
        tag("h3", "Split by identity: no identity is in two parts")
        + table(("part", "identities", "images"), rows)
    )


def dropped(sources: Sources) -> Html:
    curate = sources.metrics.get("curate")
    if curate is None:
        return section("dropped", "What was dropped, and why", not_run("curate"))
    counts = pick(curate, "removed") or dict(Counter(row["reason"] for row in sources.removed))
    total = sum(counts.values())
    before = pick(curate, "images_before") or curate["images"] + total
    content = [tag("p", f"{total:,} of {before:,} images ({percent(total / before, 1)}) went.")]
    if counts:
        rows = [(reason, f"{n:,}", percent(n / before, 1)) for reason, n in counts.items()]
        content.append(table(("reason", "images", "share"), rows))
    if path := sources.file("curate", "removed.png"):
        content += [
            tag("h3", "Examples"),
            figure(picture(path, "dropped images"), "Dropped images, a row for each reason."),
        ]
    if sources.removed:
        content.append(_removals(sources))
    return section("dropped", "What was dropped, and why", *content)


def _removals(sources: Sources) -> Html:
    rows = [
        (row["image_id"], row["identity"], row["reason"], row.get("other") or "")
        for row in sources.removed[:SHOWN_REMOVALS]
    ]
    return Html(
        f"<details><summary>{len(rows)} of the {len(sources.removed):,} dropped images by name; all"
        " are in <code>data/curate/removed.json</code></summary>"
        + table(("image", "identity", "reason", "too close to"), rows)
        + "</details>"
    )
