"""PyTorch backbone -> ExecuTorch (`.pte`) for phones and boards, in FP32, through XNNPACK.

The contract is that of the LiteRT file: one image, RGB 0..255 in, an embedding of unit length out.
"""

from __future__ import annotations

import importlib
import warnings
from pathlib import Path

import torch
from torch import nn

from facefoundry.errors import FoundryError
from facefoundry.export import Contract
from facefoundry.model_dir import ModelSpec
from facefoundry.runtimes import EXECUTORCH_HINT


def export_executorch(backbone: nn.Module, spec: ModelSpec, path: Path) -> None:
    """Write the `.pte` of a backbone ((B, 3, 112, 112) in [-1, 1] -> (B, D)).

    Input [1, 3, 112, 112] float32 RGB 0..255, output [1, D] of unit length. The backbone is left
    as it was. Raises FoundryError with the pip line where `executorch` is not installed.
    """
    try:
        exir = importlib.import_module("executorch.exir")
        xnnpack = importlib.import_module(
            "executorch.backends.xnnpack.partition.xnnpack_partitioner"
        )
    except ImportError as error:
        raise FoundryError(f"{path.name}: needs executorch ({error}); {EXECUTORCH_HINT}") from error
    training = backbone.training
    example = torch.zeros(1, 3, spec.input_size, spec.input_size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own parts, for every node
            exported = torch.export.export(Contract(backbone, spec).eval(), (example,))
            partitioners = [xnnpack.XnnpackPartitioner()]
            lowered = exir.to_edge_transform_and_lower(exported, partitioner=partitioners)
            program = lowered.to_executorch()
    finally:
        backbone.train(training)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(program.buffer)
