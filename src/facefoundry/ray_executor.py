"""A map over the nodes of a Ray cluster (Moritz et al., "Ray: a distributed framework for emerging
AI applications", 2018): what `sharding.run_pool` does on one machine.

Data does not travel through Ray: every node sees the project's folder, and what it needs of the
environment, at the same path. RAY_ADDRESS names the cluster; without it, and without one that runs
on this machine, Ray starts here alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import facefoundry
from facefoundry.errors import FoundryError
from facefoundry.journal import VARIABLE
from facefoundry.sharding import single_threaded

T = TypeVar("T")
R = TypeVar("R")

RETRIES = 8  # of one item whose node or process dies


def map_on_ray(function: Callable[[T], R], items: Sequence[T]) -> Iterator[tuple[int, R]]:
    """(place, result) of each item, as they are done: a picklable function, an item to a CPU.

    An item whose node dies is done again elsewhere. Raises FoundryError where Ray is missing or an
    item is lost RETRIES times over; what the function raises comes out as it is.
    """
    ray = _ray()
    with ray.init(runtime_env={"env_vars": _environment()}, log_to_driver=False):
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_call)
        places = {
            task.remote(Path.cwd(), function, item): place for place, item in enumerate(items)
        }
        try:
            for reference in _finished(ray, list(places)):
                yield places[reference], ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        except ray.exceptions.RayError as error:
            reason = " ".join(str(error).split())
            raise FoundryError(f"ray: {reason}; run it again: it goes on from here") from error


def _ray() -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise FoundryError(
            "executor=ray: Ray is not installed; pip install 'facefoundry[ray]', or executor=local"
        ) from error
    return ray


def _environment() -> dict[str, str]:
    """So that each node runs this code, and says what it does where this process does."""
    code = [str(Path(facefoundry.__file__).parents[1]), str(Path.cwd())]
    paths = [*code, *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    log = {VARIABLE: os.environ[VARIABLE]} if VARIABLE in os.environ else {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | log


def _finished(ray: Any, waiting: list[Any]) -> Iterator[Any]:
    """References in the order in which they are done."""
    while waiting:
        done, waiting = ray.wait(waiting)
        yield from done


def _call(project: Path, function: Callable[[T], R], item: T) -> R:
    """On a node: in the project's folder and on one thread, as in the local pool."""
    os.chdir(project)
    single_threaded()
    return function(item)
