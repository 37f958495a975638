"""A large array for processes that are spawned: they map one file, in place of a copy each."""

from __future__ import annotations

import os
from collections.abc import Callable
from multiprocessing.reduction import DupFd
from tempfile import TemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facefoundry.keeping import CACHE


class ArrayFile:
    """The bytes of a uint8 array in a file without a name, which goes with the last process that
    has it open. As an argument of a spawned process it arrives as the array, to be read only."""

    def __init__(self, array: NDArray[np.uint8]) -> None:
        CACHE.mkdir(parents=True, exist_ok=True)
        self.shape = array.shape
        self.file = TemporaryFile(dir=CACHE)  # noqa: SIM115  it stays open as long as this lives
        array.tofile(self.file)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return arrived, (DupFd(self.file.fileno()), self.shape)


def arrived(descriptor: Any, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """The array in the process that was spawned."""
    with os.fdopen(descriptor.detach(), "rb") as file:
        return np.asarray(np.memmap(file, np.uint8, "r", shape=shape))
