"""The top of the page: five sentences and five numbers that need no further reading."""

from __future__ import annotations

from facefoundry.compare import BETTER, UNKNOWN, WORSE
from facefoundry.fairness import MIN_PAIRS
from facefoundry.report.html import Html, join, tag, text
from facefoundry.report.sources import Sources
from facefoundry.results import (
    dataset_size,
    duration,
    evaluated_sets,
    milliseconds,
    percent,
    percent_with_deviation,
    pick,
    seconds_by_stage,
    size,
)


def opening(sources: Sources) -> Html:
    sentences = (accuracy, threshold, limits, student, cost)
    lead = join(tag("li", sentence(sources)) for sentence in sentences)
    return join([Html(f'<ul class="lead">{lead}</ul>'), numbers(sources)])


def numbers(sources: Sources) -> Html:
    """Identities, images, accuracy, model size, latency."""
    identities, images = dataset_size(sources.metrics)
    name = sources.main_set
    best = pick(sources.metrics.get("evaluate"), name or "", "accuracy")
    student = pick(sources.metrics.get("quantize"), "int8")
    tiles = [
        ("-" if identities is None else f"{identities:,}", "identities"),
        ("-" if images is None else f"{images:,}", "images"),
        (percent(best), f"accuracy, {name or 'not run'}"),
        (size(pick(student, "bytes")), "model, INT8"),
        (milliseconds(pick(student, "latency_ms_p50")), "latency, median, on this CPU"),
    ]
    cells = join(Html(f"<div><b>{text(v)}</b><span>{text(k)}</span></div>") for v, k in tiles)
    return Html(f'<div class="numbers">{cells}</div>')


def accuracy(sources: Sources) -> str:
    name = sources.main_set
    row = pick(sources.metrics.get("evaluate"), name or "")
    if name is None or row is None:
        return "The model has not been evaluated yet."
    beside = "".join(
        f"; {label} {percent(row[key]['accuracy'])}"
        for key, label in (("sface", "SFace, trained on real faces, gets"), ("pixels", "pixels"))
        if key in row
    )
    where = "held-out synthetic identities" if name == "synthetic" else name
    share = percent_with_deviation(row)
    judged = f"The trained model judges {share} of the pairs of {where} rightly{beside}"
    return f"{judged}; {news(sources)}."


VERDICTS = {
    BETTER: "it is better than",
    WORSE: "it is worse than",
    UNKNOWN: "it cannot be told whether it is better than",
}


def news(sources: Sources) -> str:
    """Is it better than the last one? By accuracy, on the main set where both judged it."""
    previous = sources.previous
    if previous is None:
        return "there is no earlier run to compare with"
    rows = [row for row in previous.differences if row.measure == "accuracy"]
    if not rows:
        return f"the run before ({previous.label}) judged other pairs, so it cannot be compared"
    row = next((row for row in rows if row.pair_set == sources.main_set), rows[0])
    change, low, high = (100 * value for value in (row.other - row.base, row.low, row.high))
    return (
        f"{VERDICTS[row.verdict]} the run before ({previous.label}) on {row.pair_set}:"
        f" {change:+.2f} points, 95 % interval {low:+.2f} to {high:+.2f}"
    )


def threshold(sources: Sources) -> str:
    point = sources.operating_point
    if point is None:
        return "No threshold has been set: the held-out pairs are missing or too few."
    return (
        f"At similarity {point['threshold']:.3f}, set on held-out synthetic identities for one"
        f" false match in {round(1 / point['fmr']):,} impostor pairs, it accepts"
        f" {percent(point['tar'], 1)} of their genuine pairs."
    )


def limits(sources: Sources) -> str:
    """Whom it fails most, and what a bad image does to it."""
    parts = [part for part in (_worst_group(sources), _worst_image(sources)) if part]
    return f"{'; '.join(parts)}." if parts else "For whom and where it fails has not been measured."


def _worst_group(sources: Sources) -> str | None:
    evaluated = sources.metrics.get("evaluate")
    groups = [
        (row["fnmr"]["rate"], row["group"], attribute, row["genuine_pairs"])
        for name in evaluated_sets(sources.metrics)
        for attribute, found in (pick(evaluated, name, "fairness") or {}).items()
        if attribute != "threshold"
        for row in found["groups"]
        if row["genuine_pairs"] >= MIN_PAIRS
    ]
    if not groups:
        return None
    rate, group, attribute, pairs = max(groups)
    share = f"{percent(rate, 1)} of {pairs:,} genuine pairs"
    return f"At its threshold it rejects most often where {attribute} is {group}: {share}"


def _worst_image(sources: Sources) -> str | None:
    found = pick(sources.metrics.get("evaluate"), "robustness")
    if found is None or found["clean"]["fnmr"] is None:
        return None
    hardest = {name: factor["levels"][-1]["fnmr"] for name, factor in found["factors"].items()}
    name = max(hardest, key=lambda factor: hardest[factor])
    return (
        f"of all bad images, the worst {name} costs most:"
        f" {percent(hardest[name], 1)} rejected instead of {percent(found['clean']['fnmr'], 1)}"
    )


def student(sources: Sources) -> str:
    metrics = sources.metrics.get("quantize")
    small = pick(metrics, "int8")
    if small is None:
        return "No student has been quantized yet."
    text_ = (
        f"The student for the device weighs {size(pick(small, 'bytes'))} at INT8 and takes"
        f" {milliseconds(pick(small, 'latency_ms_p50'))} a face on this machine's CPU"
    )
    name = next((key for key in small if pick(small, key, "accuracy") is not None), None)
    before = pick(metrics, "fp32", name or "", "accuracy")
    if name is None or before is None:
        return f"{text_}."
    lost = 100 * (before - small[name]["accuracy"])
    change = f"{abs(lost):.2f} points {'below' if lost > 0 else 'above'} FP32"
    return f"{text_}; it reaches {percent(small[name]['accuracy'])} on {name}, {change}."


def cost(sources: Sources) -> str:
    seconds = seconds_by_stage(sources.metrics)
    if not seconds:
        return "What the stages cost is not known yet."
    slowest = max(seconds, key=lambda name: seconds[name])
    memory = [pick(metrics, "cost", "peak_memory_mb") or 0 for metrics in sources.metrics.values()]
    return (
        f"The {len(seconds)} stages that ran took {duration(sum(seconds.values()))}, most of it"
        f" {slowest}, and at most {max(memory) / 1000:.1f} GB of memory."
    )
