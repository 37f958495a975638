"""API keys: random, shown once, kept as sha256."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from pathlib import Path

from facefoundry.errors import FoundryError
from facefoundry.gallery.crypto import write_key


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def open_keys(path: Path) -> tuple[list[str], str | None]:
    """The digests in the file (one in a line), and the new key if there was no file yet.

    The file is made with mode 0600 and never holds a key itself. Raises FoundryError if it
    cannot be read or is empty.
    """
    new = None
    if not path.exists():
        new = secrets.token_urlsafe(32)
        write_key(path, digest(new))
    try:
        digests = path.read_text("utf-8").split()
    except (OSError, UnicodeDecodeError) as error:
        raise FoundryError(f"{path}: the API keys cannot be read ({error})") from error
    if not digests:
        raise FoundryError(f"{path}: no API key; delete the file to get a new one")
    return digests, new


def matching(key: str, digests: list[str]) -> str | None:
    """The digest of the key if it is one of them, compared in constant time."""
    presented = digest(key)
    return next((known for known in digests if hmac.compare_digest(known, presented)), None)
