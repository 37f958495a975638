"""`params.yaml`: the headline knobs, and the check that every one of them is spelt right.

A knob is known when a file under `conf/` or `dvc.yaml` asks for it, so there is no second list to
keep in step.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from facefoundry.errors import FoundryError

PARAMS = Path("params.yaml")
CONF = Path("conf")
REFERENCE = re.compile(r"\$\{params:([\w.]+)\}")


def knob(key: str) -> Any:
    """The value at the dotted `key` of params.yaml: what `${params:key}` in conf/ becomes."""
    try:
        return at(load_params(), key.split("."))
    except KeyError:
        raise FoundryError(_missing(key)) from None


def at(node: Any, keys: Sequence[str]) -> Any:
    """node[key][key]... Raises KeyError where one is missing."""
    for key in keys:
        if not isinstance(node, Mapping):
            raise KeyError(key)
        node = node[key]
    return node


def load_params() -> dict[str, Any]:
    """params.yaml as a dictionary. Raises FoundryError where it is missing or not YAML."""
    try:
        return _parse(PARAMS.absolute(), PARAMS.stat().st_mtime_ns)
    except OSError as error:
        raise FoundryError(
            f"{PARAMS}: cannot be read ({error.strerror}); run from the project's root"
        ) from error


@cache
def _parse(path: Path, _modified: int) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, RecursionError) as error:
        raise FoundryError(f"{PARAMS}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise FoundryError(f"{PARAMS}: must be a mapping of knobs")
    return content


def check_params(stage: str) -> None:
    """Raise FoundryError for an unknown knob, a missing one, or a choice that conf/ lacks."""
    known = known_knobs()
    params = load_params()
    for key in _leaves(params):
        if key not in known and not any(key.startswith(f"{parent}.") for parent in known):
            raise FoundryError(f"{PARAMS}: unknown knob '{key}'{_did_you_mean(key, known)}")
    for group, key in chosen_groups(stage):
        options = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        if knob(key) not in options:
            raise FoundryError(f"{PARAMS}: {key} is '{knob(key)}', not one of {', '.join(options)}")
    for text in _conf_files(stage):
        for key in REFERENCE.findall(text):
            knob(key)


def check_choices(arguments: Sequence[str]) -> None:
    """Raise FoundryError for a `group=option` of the command line that conf/ has no file for."""
    for argument in arguments:
        group, _, choice = argument.partition("=")
        if not re.fullmatch(r"[\w,]+", choice) or not (CONF / group).is_dir():
            continue
        options = sorted(path.stem for path in (CONF / group).glob("*.yaml"))
        for option in choice.split(","):
            if option not in options:
                raise FoundryError(f"{group}={option}: not one of {', '.join(options)}")


@cache
def known_knobs() -> frozenset[str]:
    """Every key that conf/ asks params.yaml for."""
    texts = (path.read_text() for path in CONF.rglob("*.yaml"))
    return frozenset(key for text in texts for key in REFERENCE.findall(text))


def chosen_groups(stage: str) -> list[tuple[str, str]]:
    """(config group, knob that chooses its option) of a stage's defaults list."""
    defaults = yaml.safe_load((CONF / f"{stage}.yaml").read_text()).get("defaults", [])
    pairs = [next(iter(item.items())) for item in defaults if isinstance(item, dict)]
    return [
        (str(group).split("@")[0], match.group(1))
        for group, choice in pairs
        if (match := REFERENCE.fullmatch(str(choice)))
    ]


def _conf_files(stage: str) -> Iterator[str]:
    yield (CONF / f"{stage}.yaml").read_text()
    for group, key in chosen_groups(stage):
        yield (CONF / group / f"{knob(key)}.yaml").read_text()


def _leaves(node: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _missing(key: str) -> str:
    return f"{PARAMS}: missing knob '{key}'{_did_you_mean(key, frozenset(_leaves(load_params())))}"


def _did_you_mean(key: str, known: frozenset[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; known: {', '.join(sorted(known))}"
