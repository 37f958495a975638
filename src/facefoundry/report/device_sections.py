"""Sections about the device, the cost, where everything comes from and how to make it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from facefoundry.licences import FIELDS
from facefoundry.report import figures
from facefoundry.report.html import Html, figure, join, not_run, section, table, tag
from facefoundry.report.sources import Sources
from facefoundry.results import (
    STAGES,
    Metrics,
    duration,
    milliseconds,
    percent,
    percent_with_deviation,
    pick,
    seconds_by_stage,
    size,
)

PER_IMAGE = ("synthesize", "curate", "align")
# each: name, licence, note; where model.json names no chain of its own
COMMANDS = """make repro                                # environment, all stages, summary
.venv/bin/dvc repro                       # only what changed
.venv/bin/python -m facefoundry.summary   # the numbers again
.venv/bin/mlflow ui --backend-store-uri sqlite:///mlflow.db   # compare runs"""


def sizes(sources: Sources) -> Html:
    metrics = sources.metrics.get("quantize")
    variants = {
        name: row for name, row in (metrics or {}).items() if pick(row, "bytes") is not None
    }
    if not variants:
        return section("sizes", "Size and speed on this machine", not_run("quantize"))
    sets = dict.fromkeys(
        key for row in variants.values() for key in row if pick(row, key, "accuracy") is not None
    )
    rows = [
        (
            name,
            size(row["bytes"]),
            milliseconds(pick(row, "latency_ms_p50")),
            milliseconds(pick(row, "latency_ms_p95")),
            *(percent_with_deviation(pick(row, key)) for key in sets),
            _drift(row),
        )
        for name, row in variants.items()
    ]
    names = ("", "size", "latency, median", "latency, 95th percentile")
    accuracies = [f"accuracy, {key}" for key in sets]
    return section(
        "sizes",
        "Size and speed on this machine",
        table((*names, *accuracies, "cosine to FP32, mean / lowest"), rows),
        tag(
            "p",
            "One image at a time with onnxruntime. A Jetson's speed is not known from this.",
            "note",
        ),
        *_compression(sources),
    )


def _compression(sources: Sources) -> list[Html]:
    """What pruning and fine-tuning for INT8 changed; nothing where neither was asked for."""
    rows: list[tuple[str, str, str]] = []
    distill = sources.metrics.get("distill")
    if pruning := pick(distill, "pruning"):
        before, now = pruning["before"], pick(distill, "val_eer")
        rows += [
            (
                "multiply-accumulates, millions",
                _millions(before["macs"]),
                _millions(pruning["macs"]),
            ),
            ("equal error rate, validation", percent(before["val_eer"]), percent(now)),
        ]
    if tuned := pick(sources.metrics.get("quantize"), "int8", "finetune"):
        reached = pick(sources.metrics.get("quantize"), "int8", "cosine_to_fp32", "mean")
        without = tuned["cosine_without"]["mean"]
        rows.append((f"INT8 cosine, {tuned['steps']} steps", f"{without:.4f}", f"{reached:.4f}"))
    if not rows:
        return []
    title = tag("h3", "What pruning and fine-tuning for INT8 changed")
    return [title, table(("", "without", "with"), rows)]


def _millions(count: int) -> str:
    return f"{count / 1e6:.1f}"


def _drift(row: Metrics) -> str:
    cosine = pick(row, "cosine_to_fp32")
    return "-" if cosine is None else f"{cosine['mean']:.4f} / {cosine['min']:.4f}"


def tensorrt(sources: Sources) -> Html:
    metrics = sources.metrics.get("tensorrt")
    if metrics is None:
        return section("tensorrt", "TensorRT", not_run("tensorrt"))
    built = "An engine was built" if metrics.get("built") else "No engine was built"
    said = metrics.get("statement") or metrics.get("ran")
    statement = said or f"{built} (backend {metrics.get('backend')})."
    missing = join(tag("li", item) for item in metrics.get("not_run") or [])
    content: list[str] = [tag("p", statement)]
    if missing:
        content += [tag("h3", "Not run"), Html(f"<ul>{missing}</ul>")]
    return section("tensorrt", "TensorRT", *content)


def cost(sources: Sources) -> Html:
    seconds = seconds_by_stage(sources.metrics)
    if not seconds:
        return section(
            "cost", "What it cost", tag("p", "Not run: no stage has left its cost.", "absent")
        )
    rows = [_cost_row(name, sources.metrics.get(name)) for name in STAGES]
    rows.append(("all", duration(sum(seconds.values())), "", "", "", ""))
    return section(
        "cost",
        "What it cost",
        figure(figures.bars(seconds, "seconds", "cost"), "Wall-clock seconds by stage."),
        table(("stage", "wall time", "CPU time", "images/s", "peak memory", "energy"), rows),
        tag(
            "p",
            "Images per second of the stages that make or sift images. Energy is that of the whole"
            " processor, where the machine lets it be read; what the GPUs spent stands beside where"
            " one was used.",
            "note",
        ),
    )


def _cost_row(name: str, metrics: Metrics | None) -> tuple[str, ...]:
    spent = pick(metrics, "cost")
    if spent is None:
        return name, "not run", "", "", "", ""
    images, seconds = pick(metrics, "images"), spent["seconds"]
    memory = f"{pick(spent, 'peak_memory_mb') or 0:,.0f} MB"
    if (gpu := pick(spent, "gpu_peak_memory_mb")) is not None:
        memory += f", GPU {gpu:,.0f} MB"
    time = duration(pick(spent, "cpu_seconds") or 0)
    if (busy := pick(spent, "gpu_seconds")) is not None:
        time += f", GPU {duration(busy)}"
    return (
        name,
        duration(seconds),
        time,
        f"{images / seconds:,.1f}" if name in PER_IMAGE and images and seconds else "-",
        memory,
        _energy(spent),
    )


def _energy(spent: Metrics) -> str:
    """In watt-hours, of the processor and, where one was used, of the GPUs."""
    sources = (("", "energy_joules"), ("GPU ", "gpu_energy_joules"))
    known = [(name, joules) for name, key in sources if (joules := pick(spent, key)) is not None]
    read = ", ".join(f"{name}{joules / 3600:,.2f} Wh" for name, joules in known)
    return read or "not readable"


CHAIN_COLUMNS = ("work", "licence", "commercial use", "real faces", "source", "sha256")


def provenance(sources: Sources) -> Html:
    spec = sources.models.get("train")
    origin = pick(spec, "provenance") or {}
    chain = [[row.get(name, "") for name in FIELDS] for row in pick(spec, "licences") or []]
    facts = (
        table(("", "value"), [(key, _plain(value)) for key, value in origin.items()], prose=True)
        if origin
        else not_run("train")
    )
    return section(
        "provenance",
        "Provenance and licences",
        facts,
        tag("h3", "Licence chain: what this model and this page rest on"),
        table(
            ("work", "licence", "commercial use", "real faces", "source", "sha256"),
            chain,
            prose=True,
        ),
    )


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(part)}" for key, part in value.items())
    return value if isinstance(value, str) else json.dumps(value)


def reproduce(sources: Sources) -> Html:
    commit = pick(sources.models.get("train"), "provenance", "commit")
    first = f"git checkout {commit}\n" if commit else ""
    return section(
        "reproduce", "Make it again", Html(f"<pre>{tag('code', first + COMMANDS)}</pre>")
    )
