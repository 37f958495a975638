"""Commands on the pipeline's outputs."""

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


COMMANDS = [check]
