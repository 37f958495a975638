"""Embedders from ONNX files that the user names, to stand beside the model in every figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from facefoundry.benchmarks import Embed, Embeddings, Images
from facefoundry.errors import FoundryError
from facefoundry.export import open_session, to_input
from facefoundry.references import REFERENCES


def named_references(wanted: Mapping[str, Mapping[str, Any]]) -> dict[str, Embed]:
    """Embedders from ONNX files: `{name: {path, mean, std}}`, mean 0 and std 1 if not given.

    A file takes one input (N, 3, 112, 112), (RGB 0..255 - mean) / std, and its first output is the
    embedding. Raises FoundryError for a name that is taken or a file that does not load.
    """
    taken = {"model", *REFERENCES} & set(wanted)
    if taken:
        raise FoundryError(f"references: {sorted(taken)[0]} is taken; choose another name")
    return {name: _onnx_embedder(name, options) for name, options in wanted.items()}


def _onnx_embedder(name: str, options: Mapping[str, Any]) -> Embed:
    unknown = sorted(set(options) - {"path", "mean", "std"})
    if unknown or "path" not in options:
        wrong = f"unknown key {unknown[0]}" if unknown else "no path"
        raise FoundryError(f"references.{name}: {wrong}; give path, and mean and std if needed")
    session = open_session(Path(options["path"]), threads=2)
    mean, std = float(options.get("mean", 0)), float(options.get("std", 1))

    def embed(images: Images) -> Embeddings:
        planes = (to_input(images) - mean) / std
        try:
            return np.asarray(session.run(None, {session.get_inputs()[0].name: planes})[0])
        except Exception as error:  # onnxruntime raises one C++ exception class per status code
            raise FoundryError(
                f"{options['path']}: does not take (N, 3, 112, 112) float32"
                f" ({str(error).splitlines()[0]})"
            ) from error

    return embed
