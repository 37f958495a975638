"""The licences of everything that is installed with this package, by its own metadata."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.message import Message
from importlib.metadata import PackageNotFoundError, distribution
from typing import cast

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

COPYLEFT = re.compile(r"GPL|General Public License|SSPL|Server Side Public", re.IGNORECASE)
WEAK = re.compile(r"\bL(?:esser )?GPL|Lesser General Public", re.IGNORECASE)

# What the metadata does not say, or says in a way that no rule reads right; looked up one by one.
KNOWN = {
    "grandalf": "GPL-2.0-only OR EPL-1.0: the second is chosen",
    "pygit2": "GPL-2.0 with an exception for linking: it is called, not changed",
    "huey": "MIT, by the LICENSE file of its sources",
    "skops": "MIT, by the LICENSE file of its sources",
}


@dataclass(frozen=True)
class Dependency:
    """An installed distribution; `licence` is what its metadata, or KNOWN, says."""

    name: str
    version: str
    licence: str

    @property
    def accepted(self) -> bool:
        """Looked up, or with an alternative that is neither unknown nor strong copyleft."""
        return self.name in KNOWN or any(map(permits, self.licence.split(" OR ")))


def permits(licence: str) -> bool:
    """Known, and not strong copyleft."""
    return bool(licence) and (not COPYLEFT.search(licence) or bool(WEAK.search(licence)))


def dependencies(package: str = "facefoundry") -> list[Dependency]:
    """Every distribution that `package` needs without its extras, directly or not, by name; itself
    and those that this platform leaves out are not among them."""
    found: dict[str, Dependency] = {}
    waiting = [package]
    while waiting:
        name = canonicalize_name(waiting.pop())
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        if name in found:
            continue
        found[name] = Dependency(
            name, installed.version, licence_of(name, cast(Message, installed.metadata))
        )
        needs = map(Requirement, installed.requires or [])
        waiting += [n.name for n in needs if not n.marker or n.marker.evaluate({"extra": ""})]
    del found[canonicalize_name(package)]
    return [found[name] for name in sorted(found)]


def licence_of(name: str, metadata: Message) -> str:
    """The SPDX expression, else the classifiers, else the first line of the licence field."""
    if name in KNOWN:
        return KNOWN[name]
    if expression := metadata.get("License-Expression"):
        return str(expression)
    classifiers = [
        entry.rpartition(" :: ")[2]
        for entry in metadata.get_all("Classifier", [])
        if entry.startswith("License ::") and entry != "License :: OSI Approved"
    ]
    lines = str(metadata.get("License") or "").splitlines()
    return "; ".join(classifiers) or (lines[0][:80] if lines else "")
