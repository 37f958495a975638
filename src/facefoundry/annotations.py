"""images.csv of a folder benchmark: who is on each image, and the groups it belongs to.

The file is optional. Its first column is `image`, named as in pairs.csv; a column `identity` says
who it is; every other column is an attribute, of numbers or of words, such as `age` or `region`.
An empty cell is unknown.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from facefoundry.errors import FoundryError
from facefoundry.fairness import Groups, numeric_groups
from facefoundry.verification import Bools, Ints

FILE = "images.csv"


@dataclass(frozen=True)
class Annotations:
    """identity: (N,) numbers of the images' identities, None where the file does not say.
    groups: (N,) group names by attribute."""

    identity: Ints | None = None
    groups: Mapping[str, Groups] = field(default_factory=dict)


NOTHING = Annotations()


def read_annotations(directory: Path, images: Sequence[str]) -> Annotations:
    """The annotations of `images`, names relative to `directory`; empty without the file.

    Raises FoundryError naming the file, the line and the fix.
    """
    path = directory / FILE
    if not path.is_file():
        return NOTHING
    cells = _cells(path)
    names = list(next(iter(cells.values())))
    columns = {name: [cells.get(image, {}).get(name, "") for image in images] for name in names}
    who = columns.pop("identity", None)
    if who is not None and not all(who):
        missing = images[who.index("")]
        raise FoundryError(f"{path}: no identity for {missing}; name it or remove the column")
    identity = None if who is None else np.unique(who, return_inverse=True)[1]
    return Annotations(identity, {name: as_groups(values) for name, values in columns.items()})


def _cells(path: Path) -> dict[str, dict[str, str]]:
    """Row by image name."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FoundryError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    reader = csv.DictReader(lines)
    if not reader.fieldnames or reader.fieldnames[0] != "image":
        raise FoundryError(f"{path}, line 1: the first column must be image")
    rows: dict[str, dict[str, str]] = {}
    for row in reader:
        where, name = f"{path}, line {reader.line_num}", row.pop("image")
        if name in rows:
            raise FoundryError(f"{where}: {name} stands there twice; remove one of the lines")
        if None in row or None in row.values():
            raise FoundryError(f"{where}: {len(reader.fieldnames)} cells are needed; see line 1")
        rows[name] = {key: value.strip() for key, value in row.items()}
    if not rows:
        raise FoundryError(f"{path}: no images below the first line; add some or remove the file")
    return rows


def as_groups(values: Sequence[str]) -> Groups:
    """Numbers become ranges (see `numeric_groups`), words are groups as they stand."""
    try:
        return numeric_groups(np.array([float(value or "nan") for value in values]))
    except ValueError:
        return np.array(values, dtype=str)


def linked_identities(pairs: Ints, same: Bools, images: int) -> Ints:
    """(N,) identity numbers from the pairs (P, 2) alone: images that genuine pairs join, directly
    or through others, are of one identity. Images that no genuine pair joins stay apart."""
    left, right = pairs[same].T
    links = coo_matrix((np.ones(len(left)), (left, right)), shape=(images, images))
    return np.asarray(connected_components(links, directed=False)[1], dtype=np.int64)
