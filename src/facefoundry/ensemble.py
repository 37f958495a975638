"""Several models' embeddings of the same faces, side by side, as what one student learns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray

from facefoundry.benchmarks import Images, embed_images
from facefoundry.export import export_onnx
from facefoundry.model_dir import load_model
from facefoundry.runtimes import openvino_runner, runner_embedder

Vectors = NDArray[np.floating]


def embedded_together(models: Sequence[Path], crops: Images, threads: int) -> torch.Tensor:
    """What the models make of crops (N, 112, 112, 3) uint8 RGB with their mirror images, (N, D) as
    `side_by_side` has it; D is the first's. Raises FoundryError for a model that cannot be read."""
    parts = []
    with TemporaryDirectory() as scratch:
        for number, model in enumerate(models):
            path = Path(scratch) / f"{number}.onnx"
            export_onnx(*load_model(model), path)  # five times as fast as PyTorch in FP32
            embed = runner_embedder(openvino_runner(path, threads))
            parts.append(embed_images(embed, crops, flip=True, title=f"embedding by {model}"))
    return torch.from_numpy(side_by_side(parts).astype(np.float32))


def side_by_side(parts: Sequence[Vectors]) -> Vectors:
    """Embeddings (N, D) whose cosines are as near as D numbers come to the means of the parts'
    cosines; each part: (N, any size), and the first (N, D).

    One after another they have these means, and their D principal directions keep most of them
    (Eckart and Young, 1936). They are turned to lie as near to the first part's as may be
    (Schönemann, 1966), where a student that starts from it is already.
    """
    first, *_ = directions = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in parts]
    joined = np.concatenate(directions, axis=1).astype(float)
    _, axes = np.linalg.eigh(joined.T @ joined)  # the smallest first
    kept = joined @ axes[:, -first.shape[1] :]
    left, _, right = np.linalg.svd(kept.T @ first)
    turned = kept @ (left @ right)
    return np.asarray(turned / np.linalg.norm(turned, axis=1, keepdims=True))
