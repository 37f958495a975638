"""Parquet with image bytes, as the `datasets` library reads and writes them: a struct column
`image` of `bytes` and `path`, and a label column `identity` (or `label`)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from facefoundry.errors import FoundryError
from facefoundry.formats import Faces, Labelled, Stored, batches, grouped

ROWS_PER_FILE = 10_000
ROWS_PER_GROUP = 100  # what reading one image costs
SCHEMA = pa.schema(
    [
        ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
        ("identity", pa.string()),
        ("attributes", pa.string()),
    ]
)
# what tells `datasets` that the struct is a picture
FEATURES = {
    "info": {
        "features": {
            "image": {"_type": "Image"},
            "identity": {"dtype": "string", "_type": "Value"},
            "attributes": {"dtype": "string", "_type": "Value"},
        }
    }
}


def read(root: Path) -> Faces:
    return grouped((row for path in sorted(root.glob("*.parquet")) for row in _rows(path)), root)


def write(images: Iterable[Labelled], out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    schema = SCHEMA.with_metadata({"huggingface": json.dumps(FEATURES)})
    for number, batch in enumerate(batches(images, ROWS_PER_FILE)):
        table = pa.Table.from_pylist([_row(image) for image in batch], schema=schema)
        path = out / f"train-{number:05d}.parquet"
        pq.write_table(table, path, row_group_size=ROWS_PER_GROUP, compression="none")


def _row(image: Labelled) -> dict[str, Any]:
    return {
        "image": {"bytes": image.data, "path": f"{image.identity}/{image.name}.jpg"},
        "identity": image.identity,
        "attributes": json.dumps(dict(image.attributes), sort_keys=True),
    }


def _rows(path: Path) -> Iterator[tuple[str, Stored]]:
    try:
        file = pq.ParquetFile(path)
        label = "identity" if "identity" in file.schema_arrow.names else "label"
        for group in range(file.num_row_groups):
            names = file.read_row_group(group, columns=[label])[label].to_pylist()
            for row, name in enumerate(names):
                place = partial(_image, path, group, row)
                yield str(name), Stored(f"{path.name}/{group:05d}/{row:05d}", place)
    except (pa.ArrowException, KeyError, OSError) as error:
        raise FoundryError(
            f"{path}: not a parquet of images ({error}); it needs the columns image and identity"
        ) from error


def _image(path: Path, group: int, row: int) -> bytes:
    column = pq.ParquetFile(path).read_row_group(group, columns=["image"])["image"]
    return bytes(column[row].as_py()["bytes"])
