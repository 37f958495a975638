"""Faces that are made while a network learns from them, all of it on one GPU.

`painter` draws faces of new identities, `aligner` finds and cuts them out, `morphs` makes more
between them; `puller` draws other pictures of a person, as `mover` says, which learns that from
what `sight` makes of a painting. `pool` keeps faces for a student and `people` identities for a
recogniser; `augmentation` photographs them badly, and `loader` hands them to the training.
"""

from __future__ import annotations

from importlib.util import find_spec

from facefoundry.errors import FoundryError


def check_kornia(key: str) -> None:
    """Raises FoundryError, naming the key that asks for it, where Kornia is missing."""
    if find_spec("kornia") is None:
        raise FoundryError(f"{key}: needs Kornia; run `pip install 'facefoundry[gpu]'`")
