"""The two array types of this package, whose shapes the docstrings give, and their bytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Ints = NDArray[np.integer[Any]]


def to_bytes(values: Floats) -> NDArray[np.uint8]:
    """0..1 -> 0..255."""
    return (np.clip(values, 0, 1) * 255 + 0.5).astype(np.uint8)
