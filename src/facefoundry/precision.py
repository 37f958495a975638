"""What PyTorch computes with: number formats of training by name, threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from facefoundry.errors import FoundryError

PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed")


def resolve_precision(name: str) -> str:
    """Lightning's name of a precision; `auto` is bf16-mixed where the hardware computes it.

    Raises FoundryError for an unknown name.
    """
    if name not in PRECISIONS:
        raise FoundryError(f"precision: '{name}' is not one of {', '.join(PRECISIONS)}")
    if name != "auto":
        return name
    return "bf16-mixed" if computes_bf16() else "32-true"


def computes_bf16() -> bool:
    """Whether the GPU, or else the CPU, has instructions for bfloat16: emulation is slower."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """PyTorch's on the CPU; sums of another number of threads end in other digits."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
