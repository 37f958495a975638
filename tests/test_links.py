"""Every link of the pages leads to a file, and to a heading of it, that is there."""

import re
from pathlib import Path

import pytest
from conftest import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ +(.+)$", page.read_text(), re.MULTILINE)
    words = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in words}


def broken(page: Path) -> list[str]:
    """The links of a page that lead nowhere."""
    found = []
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        there = page.parent / path if path else page
        lost = not there.exists() or (bool(anchor) and anchor not in anchors(there))
        if not re.match(r"[a-z]+:", link) and lost:
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    assert broken(page) == []


def test_a_missing_file_and_a_missing_heading_are_found(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("# A `b`, c\n[1](page.md#a-b-c) [2](#a-b) [3](gone.md) [4](https://a.b/c.md)\n")
    assert broken(page) == ["#a-b", "gone.md"]
