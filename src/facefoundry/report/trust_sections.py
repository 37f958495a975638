"""Sections about limits: who is found in a gallery, for whom, in what light, and who is not."""

from __future__ import annotations

from facefoundry.report import trust_figures as figures
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


def identification(sources: Sources) -> Html:
    found = _sets_with(sources, "identification")
    content = [part for name, row in found.items() for part in _gallery(name, row)]
    return section(
        "identification",
        "Who is it, among many?",
        *(content or [not_run("evaluate")]),
        tag(
            "p",
            "Each identity's first image is its template, all others are probes. For the open set"
            " a quarter of the identities is never enrolled: FPIR is the share of their images"
            " that are taken for somebody, FNIR the share of enrolled people's images that do not"
            " find their own template first and above the threshold.",
            "note",
        ),
    )


def _gallery(name: str, row: Metrics) -> list[str]:
    lead = (
        f"Among {row['gallery']:,} identities, {percent(row['rank_1'], 1)} of {row['probes']:,}"
        f" probes find their own first, {percent(row['rank_5'], 1)} among the first five."
    )
    cells = [
        (
            f"{r['gallery']:,}",
            f"{r['fpir']:g}",
            f"needs {r['needs_probes']:,} probes of strangers; there are {r['unmated_probes']:,}"
            if r["fnir"] is None
            else percent(r["fnir"], 1),
        )
        for r in row["open_set"]
    ]
    drawn = [figure(figures.cmc_curve(row["cmc"], name), "CMC: closed set.")]
    if any(r["fnir"] is not None for r in row["open_set"]):
        drawn.append(figure(figures.open_set_curve(row["open_set"], name), "Open set."))
    return [
        tag("h3", set_title(name)),
        tag("p", lead),
        grid(drawn),
        table(("gallery", "FPIR", "FNIR"), cells),
    ]


def groups(sources: Sources) -> Html:
    found = _sets_with(sources, "fairness")
    content = [part for name, row in found.items() for part in _group_tables(name, row)]
    note = (
        "At the model's own threshold, with 95 % intervals. A group's impostor pairs are between"
        " people of that group. A ratio is worst over best of the groups with 30 pairs or more."
    )
    absent = (
        "No groups: the test faces carry no attributes with two groups, no benchmark has an"
        " images.csv, or no threshold could be set."
    )
    return section(
        "groups",
        "For whom does it fail?",
        *(content or [tag("p", absent, "absent")]),
        tag("p", note, "note"),
    )


def _group_tables(name: str, row: Metrics) -> list[str]:
    parts: list[str] = []
    for attribute, found in row.items():
        if attribute == "threshold":
            continue
        ratios = ", ".join(
            f"{measure.upper()} {'-' if (r := found[f'{measure}_ratio']) is None else f'{r:.1f}'}"
            for measure in ("fnmr", "fmr")
        )
        cells = [
            (
                r["group"],
                _rate(r["fnmr"]),
                f"{r['genuine_pairs']:,}",
                _rate(r["fmr"]),
                f"{r['impostor_pairs']:,}",
            )
            for r in found["groups"]
        ]
        parts += [
            tag("h3", f"{set_title(name)}: {attribute} (worst to best: {ratios})"),
            grid(
                figure(figures.group_bars(found["groups"], m, f"{name} {attribute}"))
                for m in ("fnmr", "fmr")
            ),
            table(("group", "FNMR", "genuine pairs", "FMR", "impostor pairs"), cells),
        ]
    return parts


def _rate(rate: Metrics | None) -> str:
    if rate is None:
        return "no pairs"
    return f"{percent(rate['rate'])} ({percent(rate['low'])} to {percent(rate['high'])})"


def robustness(sources: Sources) -> Html:
    found = pick(sources.metrics.get("evaluate"), "robustness")
    if found is None:
        return section("robustness", "What bad images do to it", not_run("evaluate"))
    drawn = [
        figure(figures.degradation(factor, found["clean"], name), name)
        for name, factor in found["factors"].items()
    ]
    lead = (
        f"{found['pairs']:,} pairs of {set_title(found['set'])}: one image of each pair stays as it"
        " is, the other gets worse from left to right. The threshold stays the model's own."
    )
    return section("robustness", "What bad images do to it", tag("p", lead), grid(drawn))


def strangers(sources: Sources) -> Html:
    found = pick(sources.metrics.get("evaluate"), "out_of_distribution")
    title = "What it makes of no faces"
    if found is None:
        return section("strangers", title, not_run("evaluate"))
    point = sources.operating_point
    cells = [
        (
            name,
            f"{row['images']:,}",
            percent(row["false_accept"], 1),
            percent(row["false_accept_with_faces"], 1),
            percent(row["rejected"], 1),
            percent(row["false_accept_kept"], 1),
            f"{row['auc']:.3f}",
        )
        for name, row in found["sets"].items()
    ]
    names = (
        "",
        "images",
        "pairs accepted",
        "accepted with a face",
        "rejected as no face",
        "accepted of the kept",
        "AUC of the rejection",
    )
    lead = (
        "Different images that should never match. An image is rejected as no face where its"
        f" embedding, before it is normalised, is shorter than {found['limit']:.3g}: what all but"
        " one in a hundred held-out faces reach. Of the test faces that rejects"
        f" {percent(found['faces_rejected'], 1)}."
    )
    drawn = figures.strangers(found["sets"], point["threshold"] if point else None)
    notes = [tag("p", note, "absent") for note in found["not_run"]]
    return section("strangers", title, tag("p", lead), figure(drawn), table(names, cells), *notes)


def probability(sources: Sources) -> Html:
    curve = pick(sources.metrics.get("evaluate"), "probability")
    title = "How sure may one be of a similarity?"
    if curve is None:
        return section("probability", title, not_run("evaluate"))
    lead = (
        "Probability that two faces are the same identity, where genuine and impostor pairs are"
        f" equally frequent: 1 / (1 + exp(-({curve['slope']:.4g} * similarity"
        f" {curve['intercept']:+.4g}))). Fitted on the validation identities and shown on others."
    )
    drawn = [
        figure(
            figures.reliability_plot(row["bins"], name),
            f"{set_title(name)}: off by {percent(row['expected_calibration_error'], 1)} on average,"
            f" Brier score {row['brier']:.3f}.",
        )
        for name, row in _sets_with(sources, "reliability").items()
    ]
    return section("probability", title, tag("p", lead), grid(drawn))


def neighbourhood(sources: Sources) -> Html:
    path, points = sources.file("evaluate", "neighbours.png"), sources.embedding_map
    content = []
    if path:
        caption = (
            "Held-out synthetic faces. In each row a probe, then the images most alike to it: green"
            " frames are of its identity, red ones of another."
        )
        content.append(figure(picture(path, "nearest neighbours"), caption))
    if points:
        caption = "The embeddings of twenty identities or fewer, by t-SNE; near is alike."
        content.append(figure(figures.embedding_map(points), caption))
    return section("neighbours", "What looks alike to it", *(content or [not_run("evaluate")]))


def leak(sources: Sources) -> Html:
    found = pick(sources.metrics.get("evaluate"), "leak")
    title = "Do real faces come back?"
    if not found:
        absent = "Not run: the audit needs a benchmark of real faces to compare with."
        return section("leak", title, tag("p", absent, "absent"))
    content = [part for name, row in found.items() for part in _leak(sources, name, row)]
    note = (
        "By SFace, which measures here and saw other people's photographs in its own training."
        " Strangers alike is the share of a benchmark's impostor pairs above the threshold; samples"
        " alike is that of synthetic faces beside its photographs. A near copy is as close to a"
        " photograph as two photographs of one person usually are."
    )
    return section("leak", title, *content, tag("p", note, "note"))


def _leak(sources: Sources, name: str, row: Metrics) -> list[str]:
    cells = [
        ("strangers alike", percent(row["strangers_alike"])),
        ("samples alike", f"{percent(row['samples_alike'])} ({row['ratio']:.2f} times)"),
        ("near copies", f"{percent(row['near_copies'])} of {row['samples']:,} samples"),
        ("strangers as near", f"{percent(row['strangers_near'])} of the photographs"),
        ("nearest, median and highest", "{p50:.3f}, {p100:.3f}".format(**row["samples_nearest"])),
        ("of real strangers", "{p50:.3f}, {p100:.3f}".format(**row["strangers_nearest"])),
        ("passed", "yes" if row["passed"] else "no"),
    ]
    heading = tag("h3", f"{row['references']:,} images of {name}")
    parts: list[str] = [heading, table(("", ""), cells)]
    if path := sources.file("evaluate", f"leak-{name}.png"):
        caption = "The nearest: synthetic faces above, the photographs they are nearest to below."
        parts.append(figure(picture(path, "nearest real faces"), caption))
    return parts


def _sets_with(sources: Sources, key: str) -> dict[str, Metrics]:
    sets = evaluated_sets(sources.metrics)
    return {name: row[key] for name, row in sets.items() if pick(row, key) is not None}
