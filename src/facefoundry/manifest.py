"""The one dataset schema: a table of images whose pixels lie in tar shards.

A dataset directory holds `manifest.parquet`, and `shards/*.tar` where its stage wrote pixels.
A row points at its pixels by (shard, offset, size); a stage that only selects writes rows that
point into the shards of an earlier stage.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from facefoundry.errors import FoundryError

MANIFEST = "manifest.parquet"
LICENCES = b"facefoundry.licences"

SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("identity", pa.string(), nullable=False),
        pa.field("shard", pa.string(), nullable=False),  # path from the project root
        pa.field("offset", pa.int64(), nullable=False),  # of the first byte of the image
        pa.field("size", pa.int64(), nullable=False),  # bytes
        pa.field("seed", pa.int64()),
        pa.field("generator", pa.string()),
        pa.field("attributes", pa.map_(pa.string(), pa.float32())),  # yaw, age, glasses, ...
        pa.field("phash", pa.uint64()),
        pa.field("quality", pa.float32()),  # detector score, 0..1
        # x, y five times, in pixels (no fixed size: parquet cannot read back a null one)
        pa.field("landmarks", pa.list_(pa.float32())),
        pa.field("split", pa.string()),  # train, val or test
    ]
)


def table(rows: Iterable[Mapping[str, Any]]) -> pa.Table:
    """Build a manifest table from rows; absent columns are null. Sorted by image_id."""
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for row in rows:
        for name in SCHEMA.names:
            columns[name].append(row.get(name))
    return pa.table(columns, schema=SCHEMA).sort_by("image_id")


def rows(manifest: pa.Table) -> list[dict[str, Any]]:
    """The manifest as dictionaries; `attributes` becomes a dict of floats."""
    result = manifest.to_pylist()
    for row in result:
        row["attributes"] = dict(row["attributes"] or ())
    return result


def with_licences(manifest: pa.Table, chain: Sequence[Mapping[str, str]]) -> pa.Table:
    """The manifest with its licence chain, a dictionary of strings for each work it rests on."""
    text = json.dumps(list(chain), sort_keys=True)
    return manifest.replace_schema_metadata({LICENCES: text.encode()})


def licences(manifest: pa.Table) -> list[dict[str, str]]:
    """The licence chain that travels with the manifest, empty where none was given."""
    chain: list[dict[str, str]] = json.loads((manifest.schema.metadata or {}).get(LICENCES, b"[]"))
    return chain


def write(manifest: pa.Table, directory: Path) -> None:
    """Validate and write `directory/manifest.parquet`: the same bytes for the same rows."""
    validate(manifest, str(directory / MANIFEST))
    directory.mkdir(parents=True, exist_ok=True)
    pq.write_table(manifest, directory / MANIFEST, compression="zstd")


def read(directory: Path) -> pa.Table:
    """Read and validate `directory/manifest.parquet`. Raises FoundryError naming the file."""
    path = directory / MANIFEST
    try:
        manifest = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise FoundryError(
            f"{path}: no readable manifest ({error}); run the stage again"
        ) from error
    validate(manifest, str(path))
    return manifest


def validate(manifest: pa.Table, name: str) -> None:
    """Raise FoundryError unless the schema is ours and image ids are unique and sorted."""
    if not manifest.schema.equals(SCHEMA):
        wrong = set(map(str, manifest.schema)) ^ set(map(str, SCHEMA))
        raise FoundryError(f"{name}: columns differ from the manifest schema: {sorted(wrong)}")
    ids = manifest["image_id"].combine_chunks()
    if len(ids) > 1 and not pc.all(pc.less(ids[:-1], ids[1:])).as_py():
        raise FoundryError(f"{name}: image_id is not unique and sorted; run the stage again")


def take_rows(manifest: pa.Table, keep: Any) -> pa.Table:
    """The rows where the boolean array `keep` is true."""
    return manifest.filter(pa.array(keep, pa.bool_()))
