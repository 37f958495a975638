"""MODEL_CARD.md in the form that Hugging Face reads: YAML front matter, then Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from facefoundry.licences import FIELDS
from facefoundry.results import pick


def model_card(spec: Mapping[str, Any], parameters: int, weight_bytes: int) -> str:
    """The card of a model from the fields of its `ModelSpec`, as a dict."""
    sections = [
        front_matter(FRONT_MATTER, spec["licences"]),
        f"# {spec['architecture']}, {spec['embedding_size']} dimensions",
        "Maps an aligned face to an embedding; the cosine of two embeddings is their similarity.",
        f"## Model\n\n{_model(spec, parameters, weight_bytes)}",
        f"## Thresholds\n\n{_thresholds(spec['thresholds'])}",
        f"## Provenance\n\n{_provenance(spec['provenance'])}",
        *_starts(spec["provenance"]),
        f"## Licence chain\n\n{licence_table(spec['licences'])}",
        f"## Use and limits\n\n{LIMITS}",
        f"## How to load\n\n{LOAD}",
    ]
    return "\n\n".join(sections) + "\n"


FRONT_MATTER = {
    "library_name": "facefoundry",
    "pipeline_tag": "image-feature-extraction",
    "tags": "[face-recognition, face-verification, synthetic-data]",
}

LIMITS = (
    "Thresholds given here were set on held-out synthetic identities: calibrate them again on pairs"
    " from where the model will be used. Error rates differ between groups of people, and between"
    " good and poor images; measure both before a decision about a person rests on this model."
    " Face embeddings of real people are biometric data under GDPR and similar law."
)

LOAD = """```python
from pathlib import Path
from facefoundry.model_dir import load_model

backbone, spec = load_model(Path("path/to/this/directory"))
# input: (B, 3, 112, 112) RGB in [-1, 1], aligned to the ArcFace template
```"""


def front_matter(fields: Mapping[str, str], chain: Sequence[Mapping[str, Any]]) -> str:
    """YAML that Hugging Face reads: `fields` as they stand, then the licences of the chain."""
    licences = [str(row.get("licence", "unknown")) for row in chain]
    return "\n".join(
        [
            "---",
            *(f"{name}: {value}" for name, value in fields.items()),
            "license: other",
            f"license_name: {json.dumps(' + '.join(dict.fromkeys(licences)) or 'unknown')}",
            "---",
        ]
    )


def _model(spec: Mapping[str, Any], parameters: int, weight_bytes: int) -> str:
    size = spec["input_size"]
    rows = [
        ("Architecture", spec["architecture"]),
        ("Arguments", f"`{json.dumps(spec['arguments'])}`"),
        ("Parameters", f"{parameters:,}"),
        ("Weights", f"{weight_bytes:,} bytes"),
        ("Input", f"{size} x {size} {spec['colour_order']}, five-point ArcFace alignment"),
        ("Normalisation", f"(x - {spec['mean']}) / {spec['std']}"),
        ("Embedding", f"{spec['embedding_size']} numbers, compared by cosine"),
    ]
    return table(("", "value"), rows)


def _thresholds(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "None were measured: set one from pairs of your own."
    names = list(rows[0])
    return table(names, [[row.get(name) for name in names] for row in rows])


def _provenance(values: Mapping[str, Any]) -> str:
    if not values:
        return "Not recorded."
    return table(
        ("", "value"),
        [
            (key, value if isinstance(value, str) else json.dumps(value))
            for key, value in values.items()
            if key != "start"
        ],
    )


def _starts(provenance: Mapping[str, Any]) -> list[str]:
    """The models that the weights started from, the last first; nothing for weights by chance."""
    rows = []
    start = provenance.get("start")
    while isinstance(start, Mapping):
        before = start.get("provenance")
        options = pick(before, "options")
        told = [pick(options, key) for key in ("teacher", "steps", "batch_size", "seed")]
        loss, data = pick(options, "loss", "loss"), json.dumps(pick(before, "data"))
        rows.append([start.get("model"), start.get("weights_sha256"), loss, *told, data])
        start = pick(before, "start")
    names = ("model", "its weights' sha256", "loss", "teacher", "steps", "of", "seed", "data")
    return [f"## Where it started\n\n{table(names, rows)}"] if rows else []


def licence_table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "Not recorded: settle it before this is passed on."
    return table(FIELDS, [[row.get(name, "") for name in FIELDS] for row in rows])


def table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A Markdown table; no cell can break it."""
    lines = [_row(names), _row(["---"] * len(names)), *(_row(row) for row in rows)]
    return "\n".join(lines)


def _row(cells: Sequence[Any]) -> str:
    texts = ("-" if cell is None else _cell(cell) for cell in cells)
    return f"| {' | '.join(texts)} |"


def _cell(value: Any) -> str:
    """A value may not break the table that it stands in."""
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())
