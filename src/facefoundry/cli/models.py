"""Commands on trained models."""

from __future__ import annotations

from typing import Annotated

import typer


def release(
    name: Annotated[str, typer.Argument(help="the model's name under pretrained/")],
) -> None:
    """Put the pipeline's student under pretrained/NAME, with its figures in the card."""
    from facefoundry.release import release

    print(release(name))


COMMANDS = [release]
