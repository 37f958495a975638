"""Signed directories: models, bundles, whatever is handed on.

The format is that of OpenSSF Model Signing (`model-signing`, from the extra `signing`), by a key of
one's own and without a network: `model_signing verify key` reads it too. Every file is signed, by
its SHA-256; a file that is added, missing or changed breaks the signature.
"""

from __future__ import annotations

from pathlib import Path

from facefoundry.errors import FoundryError

try:
    from model_signing import hashing, signing, verifying
except ImportError as error:
    raise FoundryError(
        "signatures need the extra `signing`: pip install 'facefoundry[signing]'"
    ) from error

SIGNATURE = "model.sig"
NEW_KEY = "openssl ecparam -name prime256v1 -genkey -noout -out KEY"


def sign(directory: Path, private_key: Path) -> Path:
    """Sign every file of `directory` with an elliptic-curve key (PEM, not encrypted: P-256, P-384
    or P-521); return the signature, `directory/model.sig`.

    Raises FoundryError where the directory holds no file, or the key is not such a key.
    """
    _check(directory)
    signature = directory / SIGNATURE
    try:
        config = signing.Config().use_elliptic_key_signer(private_key=private_key)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise FoundryError(
            f"{private_key}: not a private key to sign with ({error}); make one: {NEW_KEY}"
        ) from error
    config.set_hashing_config(_hashing(signature)).sign(directory.absolute(), signature)
    return signature


def check_signature(directory: Path, public_key: Path) -> None:
    """Raise FoundryError unless `directory` is, file for file, what the owner of the key signed."""
    _check(directory)
    signature = directory / SIGNATURE
    if not signature.is_file():
        raise FoundryError(f"{signature}: not signed; `facefoundry sign {directory} --key KEY`")
    try:
        config = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (OSError, ValueError, AttributeError) as error:
        raise FoundryError(
            f"{public_key}: not a public key (PEM) to check with ({error});"
            " make it: openssl ec -in KEY -pubout -out PUB"
        ) from error
    try:
        config.set_hashing_config(_hashing(signature)).verify(directory.absolute(), signature)
    except Exception as error:  # a forged signature file fails in many ways
        reason = str(error) or type(error).__name__
        raise FoundryError(f"{directory}: {reason}; take it again from its source") from error


def _check(directory: Path) -> None:
    if not directory.is_dir() or not any(directory.iterdir()):
        raise FoundryError(f"{directory}: no directory with files in it; give a model's")


def _hashing(signature: Path) -> hashing.Config:
    """Of everything: files of git and hidden ones too, but not of the signature itself."""
    # as a path from the root: a relative one would be sought inside the directory
    ignored = [signature.absolute()]
    return hashing.Config().set_ignored_paths(paths=ignored, ignore_git_paths=False)
