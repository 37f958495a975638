"""What the stages left behind, read from their metrics.json. Imports nothing heavy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facefoundry.errors import FoundryError

STAGES = {
    "synthesize": Path("data/synthesize"),
    "curate": Path("data/curate"),
    "align": Path("data/align"),
    "split": Path("data/split"),
    "train": Path("models/train"),
    "evaluate": Path("models/evaluate"),
    "distill": Path("models/distill"),
    "quantize": Path("models/quantize"),
    "tensorrt": Path("models/tensorrt"),
}
REPORT = Path("reports/index.html")
SYNTHETIC = "synthetic"

Metrics = Mapping[str, Any]


def read_json(path: Path) -> Any:
    """The file's content, or None where there is no such file. Raises FoundryError if broken."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise FoundryError(
            f"{path}: not readable as JSON ({error}); delete it and run `dvc repro`"
        ) from error


def read_metrics(root: Path) -> dict[str, Metrics]:
    """metrics.json of every stage that has one, in the order of the pipeline."""
    found = {name: read_json(root / folder / "metrics.json") for name, folder in STAGES.items()}
    return {name: metrics for name, metrics in found.items() if metrics is not None}


def pick(metrics: Metrics | None, *keys: str) -> Any:
    """metrics[key][key]..., or None where a part is missing."""
    node: Any = metrics
    for key in keys:
        if not isinstance(node, Mapping):
            return None
        node = node.get(key)
    return node


def evaluated_sets(results: Mapping[str, Metrics]) -> dict[str, Metrics]:
    """The evaluated sets that have an accuracy: benchmarks by name, then the synthetic one."""
    evaluated = results.get("evaluate", {})
    sets = {name: row for name, row in evaluated.items() if pick(row, "accuracy") is not None}
    return dict(sorted(sets.items(), key=lambda item: (item[0] == SYNTHETIC, item[0])))


def set_title(name: str) -> str:
    return "Held-out synthetic identities" if name == SYNTHETIC else f"Benchmark {name}"


def dataset_size(results: Mapping[str, Metrics]) -> tuple[int | None, int | None]:
    """(identities, images) that went into the split: after curation where that has run."""
    for name in ("align", "curate", "synthesize"):
        if name in results:
            return pick(results[name], "identities"), pick(results[name], "images")
    return None, None


def seconds_by_stage(results: Mapping[str, Metrics]) -> dict[str, float]:
    costs = {name: pick(metrics, "cost", "seconds") for name, metrics in results.items()}
    return {name: float(seconds) for name, seconds in costs.items() if seconds is not None}


def percent(share: float | None, digits: int = 2) -> str:
    """0.9942 -> `99.42 %`; None -> `-`."""
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def percent_with_deviation(row: Metrics | None) -> str:
    """`81.70 ± 1.52 %`, from `accuracy` and `accuracy_std`."""
    accuracy, deviation = pick(row, "accuracy"), pick(row, "accuracy_std")
    if accuracy is None or deviation is None:
        return percent(accuracy)
    return f"{100 * accuracy:.2f} ± {100 * deviation:.2f} %"


def size(count: int | None) -> str:
    """868352 -> `868 kB`; megabytes from a million bytes on."""
    if count is None:
        return "-"
    return f"{count / 1e6:.2f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"


def milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} ms"


def duration(seconds: float) -> str:
    """75.2 -> `1 min 15 s`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
