"""Contact sheets of datasets: identities in rows."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from facefoundry import manifest
from facefoundry.images import Image, contact_sheet, save_png
from facefoundry.shards import image_of


def write_preview(
    dataset: pa.Table,
    path: Path,
    shards: Path | None = None,
    identities: int = 8,
    images: int = 12,
    cell: int = 112,
) -> None:
    """Save the first images of some identities, spread evenly over the dataset.

    shards: their folder, while they are not yet where the dataset says.
    """
    names = sorted(set(dataset["identity"].to_pylist()))
    chosen = names[:: max(len(names) // identities, 1)][:identities]
    rows: dict[str, list[Image]] = {name: [] for name in chosen}
    for row in manifest.rows(dataset):
        if shards:
            row["shard"] = shards / Path(row["shard"]).name
        if row["identity"] in rows and len(rows[row["identity"]]) < images:
            rows[row["identity"]].append(image_of(row))
    save_png(contact_sheet(list(rows.values()), cell), path)
