"""Embeddings at rest: AES-256-GCM with a key from the environment or from a file."""

from __future__ import annotations

import base64
import binascii
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from facefoundry.errors import FoundryError

KEY_VARIABLE = "FACEFOUNDRY_GALLERY_KEY"
KEY_BYTES = 32
NONCE_BYTES = 12


def new_key() -> str:
    """A random key as 44 characters of base64."""
    return base64.b64encode(os.urandom(KEY_BYTES)).decode()


def parse_key(text: str, source: str) -> bytes:
    """The 32 bytes of a key. Raises FoundryError naming `source`, never the key."""
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise FoundryError(
            f"{source}: not a key of {KEY_BYTES} bytes in base64; make one with"
            " `openssl rand -base64 32`"
        )
    return key


def find_key(key_file: Path) -> bytes:
    """From FACEFOUNDRY_GALLERY_KEY, else from the file, which is made (mode 0600) if absent."""
    if KEY_VARIABLE in os.environ:
        return parse_key(os.environ[KEY_VARIABLE], KEY_VARIABLE)
    if not key_file.exists():
        write_key(key_file, new_key())
    try:
        return parse_key(key_file.read_text("utf-8"), str(key_file))
    except (OSError, UnicodeDecodeError) as error:
        raise FoundryError(f"{key_file}: the gallery's key cannot be read ({error})") from error


def write_key(path: Path, text: str) -> None:
    """Only the owner may read it, from its first moment. Raises FoundryError if it is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise FoundryError(f"{path}: cannot write a new key there ({error.strerror})") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


class Sealer:
    """Seals bytes to a context: what was sealed in one place does not open in another."""

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(key)

    def seal(self, plain: bytes, context: str) -> bytes:
        nonce = os.urandom(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, plain, context.encode())

    def open(self, sealed: bytes, context: str) -> bytes:
        """Raises FoundryError for another key, or bytes that were changed."""
        nonce, text = sealed[:NONCE_BYTES], memoryview(sealed)[NONCE_BYTES:]
        try:
            return self._cipher.decrypt(nonce, text, context.encode())
        except (InvalidTag, ValueError) as error:
            raise FoundryError(
                f"gallery {context}: does not open with this key, or was changed; give the key"
                f" that it was made with ({KEY_VARIABLE} or the key file)"
            ) from error
