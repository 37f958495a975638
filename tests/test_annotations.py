"""images.csv: identities and groups of a benchmark's images."""

from pathlib import Path

import numpy as np
import pytest

from facefoundry.annotations import linked_identities, read_annotations
from facefoundry.errors import FoundryError

NAMES = ["b.png", "a.png", "c.png"]


def write(folder: Path, text: str) -> Path:
    (folder / "images.csv").write_text(text)
    return folder


def test_rows_follow_the_images_not_the_file(tmp_path: Path) -> None:
    text = "image,identity,region,age\na.png,ann,north,30\nb.png,bob,,20\nc.png,ann,south,\n"
    found = read_annotations(write(tmp_path, text), NAMES)
    assert found.identity is not None and found.identity.tolist() == [1, 0, 0]
    assert found.groups["region"].tolist() == ["", "north", "south"]
    assert found.groups["age"].tolist() == ["20", "30", ""]


def test_no_file_says_nothing(tmp_path: Path) -> None:
    found = read_annotations(tmp_path, NAMES)
    assert found.identity is None and found.groups == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,age\na.png,3\n", "line 1: the first column must be image"),
        ("image,age\na.png,3\na.png,4\n", r"line 3: a\.png stands there twice"),
        ("image,age\na.png,3,4\n", "line 2: 2 cells are needed"),
        ("image,age\na.png\n", "line 2: 2 cells are needed"),
        ("image,identity\na.png,ann\nb.png,bob\n", r"no identity for c\.png"),
        ("image,age\n", "no images below the first line"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(FoundryError, match=rf"images\.csv.*{message}"):
        read_annotations(write(tmp_path, text), NAMES)


def test_genuine_pairs_link_identities() -> None:
    """0-1 and 1-2 are the same, so 0, 1, 2 are one; 3 only stands in impostor pairs."""
    pairs = np.array([(0, 1), (1, 2), (0, 3), (4, 5)])
    found = linked_identities(pairs, np.array([True, True, False, True]), 6)
    assert found[0] == found[1] == found[2] and found[4] == found[5]
    assert len(set(found.tolist())) == 3
