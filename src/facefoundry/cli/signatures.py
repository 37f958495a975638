"""Commands that sign what is handed on, and check what was handed over."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Directory = Annotated[Path, typer.Argument(help="a model directory, or a bundle")]


def sign(
    directory: Directory,
    key: Annotated[Path, typer.Option(help="private elliptic-curve key, a PEM file")],
) -> None:
    """Sign every file of a directory: leaves model.sig in it (OpenSSF Model Signing)."""
    from facefoundry.signing import sign as sign_directory

    print(f"signed: {sign_directory(directory, key)}")


def check_signature(
    directory: Directory,
    key: Annotated[Path, typer.Option(help="the signer's public key, a PEM file")],
) -> None:
    """Exit status 1 unless a directory is, file for file, what the owner of the key signed."""
    from facefoundry.signing import check_signature as check

    check(directory, key)
    print(f"{directory} is as it was signed")


COMMANDS = [sign, check_signature]
