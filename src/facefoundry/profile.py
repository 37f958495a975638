"""Named sets of knobs, `conf/profile/<name>.yaml`: dotted keys of params.yaml with their values,
and `conf/curate.yaml:min_images` for one that is not a headline.

`make repro PROFILE=clean` runs the pipeline with one; `python -m facefoundry.profile clean` prints
it as the arguments that `dvc exp run` takes.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import yaml

from facefoundry.errors import FoundryError
from facefoundry.params import CONF, knob


def read_profile(name: str, conf: Path = CONF) -> dict[str, Any]:
    """The profile's knobs. Raises FoundryError for an unknown profile, or a knob that its file does
    not have."""
    names = sorted(path.stem for path in (conf / "profile").glob("*.yaml"))
    if name not in names:
        raise FoundryError(f"profile '{name}' is not one of {', '.join(names)}")
    profile: dict[str, Any] = yaml.safe_load((conf / "profile" / f"{name}.yaml").read_text())
    for key in profile:
        _check(key)
    return profile


def _check(key: str) -> None:
    file, _, name = key.rpartition(":")
    if not file:
        knob(key)
        return
    node = yaml.safe_load(Path(file).read_text()) if Path(file).is_file() else {}
    for part in name.split("."):
        if not isinstance(node, dict) or part not in node:
            raise FoundryError(f"'{key}': no such knob; give FILE:KEY of a file under {CONF}/")
        node = node[part]


def as_arguments(profile: dict[str, Any]) -> str:
    """`--set-param key=value` for each knob, quoted for a shell."""
    settings = (shlex.quote(f"{key}={value}") for key, value in profile.items())
    return " ".join(f"--set-param {setting}" for setting in settings)


if __name__ == "__main__":
    try:
        print(as_arguments(read_profile(sys.argv[1])))
    except FoundryError as error:
        sys.exit(str(error))
