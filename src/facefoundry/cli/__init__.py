"""`facefoundry`: what is done with a model, a gallery or a run, outside the DAG.

Each module of this package holds the commands of one subject, as functions in a list `COMMANDS`.
They import what they need when they run, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from importlib import import_module

import typer

from facefoundry.errors import FoundryError

SUBJECTS: tuple[str, ...] = (
    "artefacts",
    "data",
    "deploy",
    "evaluation",
    "faces",
    "models",
    "service",
    "signatures",
    "tuning",
)


def build_app() -> typer.Typer:
    """The application with every subject's commands."""
    app = typer.Typer(
        name="facefoundry", no_args_is_help=True, add_completion=False, help=__doc__.split("\n")[0]
    )
    app.callback()(lambda: None)  # so that a single command keeps its name
    for subject in SUBJECTS:
        for command in import_module(f"{__name__}.{subject}").COMMANDS:
            app.command()(command)
    return app


def main() -> None:
    """Run the command line; a FoundryError is one line and exit status 1."""
    try:
        build_app()()
    except FoundryError as error:
        sys.exit(f"facefoundry: {error}")
