"""Commands on what is here: the pipeline's outputs, and what was installed with it."""

from __future__ import annotations

import typer


def check() -> None:
    """Read every output of the pipeline again and compare it with dvc.lock: nothing is trusted.

    Exit status 1, with a line and a command for each file that is not what its stage wrote.
    """
    from facefoundry.integrity import find_faults

    faults = find_faults()
    for fault in faults:
        print(f"{fault.path} {fault.problem}; mend it with: {fault.repair}")
    if faults:
        raise typer.Exit(1)
    print("every output is what its stage wrote")


def licences() -> None:
    """The licence of every dependency; exit status 1 where one is GPL, AGPL or unknown."""
    from facefoundry.dependencies import dependencies

    refused = 0
    for entry in dependencies():
        refused += not entry.accepted
        mark = " " if entry.accepted else "!"
        print(f"{mark} {entry.name}=={entry.version}: {entry.licence or 'unknown'}")
    if refused:
        raise typer.Exit(1)


COMMANDS = [check, licences]
