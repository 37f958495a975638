"""A dataset of the pipeline in the layouts of others, with a Croissant description beside it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from facefoundry import manifest
from facefoundry.errors import FoundryError
from facefoundry.formats import Labelled, layout
from facefoundry.progress import track
from facefoundry.sharding import Row
from facefoundry.shards import read_member

CROISSANT = "croissant.json"
CONFORMS = "http://mlcommons.org/croissant/1.0"
CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "dct": "http://purl.org/dc/terms/",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileObject": "cr:fileObject",
    "jsonPath": "cr:jsonPath",
    "md5": "cr:md5",
    "recordSet": "cr:recordSet",
    "source": "cr:source",
    "transform": "cr:transform",
}


def export_faces(faces: Path, out: Path, name: str) -> int:
    """Write the dataset `faces` to the new folder `out` in the layout `name`; return the number of
    images. Raises FoundryError where `out` has something in it already."""
    writer = layout(name)
    if out.exists() and any(out.iterdir()):
        raise FoundryError(f"{out}: not empty; name a new folder")
    table = manifest.read(faces)
    rows = manifest.rows(table)
    out.mkdir(parents=True, exist_ok=True)
    writer.write(_images(rows), out)
    files = sorted(path for path in out.rglob("*") if path.is_file())
    licences = manifest.licences(table)
    (out / "licences.json").write_text(json.dumps(licences, indent=1) + "\n")
    text = json.dumps(croissant(faces.name, rows, licences, files, out), indent=1)
    (out / CROISSANT).write_text(text + "\n")
    return len(rows)


def _images(rows: Sequence[Row]) -> Iterator[Labelled]:
    for row in track(rows, "exporting", unit="images"):
        place = row["image_id"].rpartition("/")[2]
        yield Labelled(row["identity"], place, read_member(row), row["attributes"])


def croissant(
    name: str,
    rows: Sequence[Row],
    licences: Sequence[Mapping[str, str]],
    files: Sequence[Path],
    root: Path,
) -> dict[str, Any]:
    """Croissant 1.0 metadata (Akhtar et al., 2024) of the exported files."""
    identities = len({row["identity"] for row in rows})
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "name": f"facefoundry-{name}",
        "description": f"{len(rows)} face images of {identities} identities."
        " What each source owes to real people stands in licences.json.",
        "conformsTo": CONFORMS,
        "license": sorted({entry["licence"] for entry in licences}) or ["unknown"],
        "distribution": [_file(path, root) for path in files],
        "recordSet": [_records(path, root) for path in files if path.suffix == ".parquet"],
    }


def _records(path: Path, root: Path) -> dict[str, Any]:
    """The rows of a parquet file, the one layout in which a row is a whole sample: image, identity
    and attributes. In the others a reader has to pair files by their names."""
    place = path.relative_to(root).as_posix()

    def field(column: str, kind: str, **transform: str) -> dict[str, Any]:
        source = {"fileObject": {"@id": place}, "extract": {"column": column}}
        return {
            "@type": "cr:Field",
            "@id": f"{path.stem}/{column}",
            "dataType": kind,
            "source": source | ({"transform": transform} if transform else {}),
        }

    fields = [
        field("image", "sc:ImageObject", jsonPath="bytes"),
        field("identity", "sc:Text"),
        field("attributes", "sc:Text"),
    ]
    return {"@type": "cr:RecordSet", "@id": path.stem, "field": fields}


def _file(path: Path, root: Path) -> dict[str, str]:
    place = path.relative_to(root).as_posix()
    return {
        "@type": "cr:FileObject",
        "@id": place,
        "name": place,
        "contentUrl": place,
        "encodingFormat": ENCODINGS.get(path.suffix, "application/octet-stream"),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


ENCODINGS = {
    ".jpg": "image/jpeg",
    ".tar": "application/x-tar",
    ".parquet": "application/x-parquet",
    ".txt": "text/plain",
}
