"""Named sets of knobs, `conf/profile/<name>.yaml`: dotted keys of params.yaml with their values,
and `conf/curate.yaml:min_images` for one that is not a headline.

`python -m facefoundry.profile clean` writes them into the files they are of, where `git diff` shows
them and `git checkout params.yaml conf` takes them back; `make repro PROFILE=clean` then runs the
pipeline. Of several, a later one's knobs count.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import yaml
from ruamel.yaml import YAML

from facefoundry.errors import FoundryError
from facefoundry.params import CONF, PARAMS, at, knob

Knobs = dict[str, Any]


def read_profile(name: str, conf: Path = CONF) -> dict[Path, Knobs]:
    """The profile's knobs by dotted key, for each file. Raises FoundryError for an unknown profile,
    or a knob that its file does not have."""
    names = sorted(path.stem for path in (conf / "profile").glob("*.yaml"))
    if name not in names:
        raise FoundryError(f"profile '{name}' is not one of {', '.join(names)}")
    profile: dict[Path, Knobs] = defaultdict(dict)
    for key, value in yaml.safe_load((conf / "profile" / f"{name}.yaml").read_text()).items():
        file, _, dotted = key.rpartition(":")
        path = Path(file) if file else PARAMS
        if not file:
            knob(dotted)
        else:
            _check(key, path, dotted)
        profile[path][dotted] = value
    return profile


def write_profile(profile: dict[Path, Knobs]) -> None:
    """Set the knobs in their files; comments stay where they are."""
    # DVC's --set-param cannot: it resolves ${params:...}, which is for the stages to resolve
    editor = YAML()
    editor.width = 1000
    editor.indent(sequence=4, offset=2)
    editor.representer.add_representer(type(None), _null)
    for path, knobs in profile.items():
        content = editor.load(path)
        for dotted, value in knobs.items():
            *sections, leaf = dotted.split(".")
            section = at(content, sections)
            if isinstance(value, list):
                section[leaf][:] = value  # in place, so that it stays on its line,
                section[leaf].fa.set_flow_style()  # which an empty list does not ask for
            else:
                section[leaf] = value
        editor.dump(content, path)


def _null(representer: Any, _none: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")


def _check(key: str, path: Path, dotted: str) -> None:
    try:
        at(yaml.safe_load(path.read_text()) if path.is_file() else {}, dotted.split("."))
    except KeyError:
        message = f"'{key}': no such knob; give FILE:KEY of a file under {CONF}/"
        raise FoundryError(message) from None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="+", help="files of conf/profile, without .yaml")
    try:
        for profile in [read_profile(name) for name in parser.parse_args().names]:
            write_profile(profile)
    except FoundryError as error:
        sys.exit(str(error))
