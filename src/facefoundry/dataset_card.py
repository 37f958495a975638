"""DATASET_CARD.md in the form that Hugging Face reads: YAML front matter, then Markdown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from facefoundry import manifest
from facefoundry.licences import FIELDS
from facefoundry.model_card import front_matter, licence_table, table

CARD = "DATASET_CARD.md"
SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (10**6, "100K<n<1M"))


def dataset_card(rows: Sequence[Mapping[str, Any]], chain: Sequence[Mapping[str, str]]) -> str:
    """The card of a split dataset from its manifest rows and its licence chain."""
    identities = len({row["identity"] for row in rows})
    sections = [
        _front_matter(rows, chain),
        f"# {len(rows):,} aligned faces of {identities:,} identities",
        "Crops of 112 x 112 pixels, RGB, on the ArcFace template, labelled by identity; no identity"
        " is in two splits.",
        f"## Splits\n\n{_counts(rows, 'split')}",
        f"## Generators\n\n{_counts(rows, 'generator')}",
        f"## Attributes\n\n{_attributes(rows)}",
        f"## Fields\n\n{FIELDS_TEXT}",
        f"## Licence chain\n\n{licence_table(chain)}",
        f"## Use and limits\n\n{_limits(chain)}",
    ]
    return "\n\n".join(sections) + "\n"


FIELDS_TEXT = (
    f"`{manifest.MANIFEST}` has a row for each image: "
    + ", ".join(f"`{name}`" for name in manifest.SCHEMA.names)
    + ". The bytes of an image stand in the tar `shard` at `offset`, `size` of them; `landmarks`"
    " are x, y of five points in pixels."
)


def _front_matter(rows: Sequence[Mapping[str, Any]], chain: Sequence[Mapping[str, str]]) -> str:
    size = next((name for limit, name in SIZES if len(rows) < limit), "n>1M")
    fields = {
        "pretty_name": "Aligned faces by identity",
        "task_categories": "[image-feature-extraction]",
        "size_categories": f"[{size}]",
        "tags": "[face-recognition, synthetic-data]",
    }
    return front_matter(fields, chain)


def _counts(rows: Sequence[Mapping[str, Any]], column: str) -> str:
    images = Counter(row[column] or "unknown" for row in rows)
    pairs = {(row[column] or "unknown", row["identity"]) for row in rows}
    identities = Counter(name for name, _ in pairs)
    cells = [(name, f"{identities[name]:,}", f"{images[name]:,}") for name in sorted(images)]
    return table((column, "identities", "images"), cells)


def _attributes(rows: Sequence[Mapping[str, Any]]) -> str:
    """How each attribute is spread over the images that have it: no group may be taken for fair
    that is hardly there."""
    names = sorted({name for row in rows for name in row["attributes"]})
    if not names:
        return "The generator recorded none, so error rates by group cannot be told from this data."
    cells = []
    for name in names:
        values = [row["attributes"][name] for row in rows if name in row["attributes"]]
        cells.append((name, f"{len(values):,}", *np.quantile(values, (0, 0.25, 0.5, 0.75, 1))))
    return table(("attribute", "images", "least", "25 %", "median", "75 %", "greatest"), cells)


def _limits(chain: Sequence[Mapping[str, str]]) -> str:
    """What the licence chain allows, as far as it says."""
    photographs = [row[FIELDS[0]] for row in chain if row.get("real_faces") != "no"]
    restricted = [row[FIELDS[0]] for row in chain if row.get("commercial") != "yes"]
    return " ".join(
        [
            f"Rests on photographs of real people through: {'; '.join(photographs)}."
            if photographs
            else "No photograph of a real person stands behind it.",
            f"Commercial use is not granted by: {'; '.join(restricted)}."
            if restricted
            else "Nothing in the chain forbids commercial use.",
            "A face may still resemble somebody; a model trained on it must be measured on people"
            " from where it will be used.",
        ]
    )
