"""Where a training runs: in one process, or in several on one machine or more."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import TQDMProgressBar
from pytorch_lightning.strategies import ModelParallelStrategy

from facefoundry.errors import FoundryError
from facefoundry.heap import keep_freed_memory
from facefoundry.precision import resolve_precision

STRATEGIES = ("auto", "ddp", "fsdp")

# its device table and its advertisements; errors still come as exceptions
for _name in ("pytorch_lightning.utilities.rank_zero", "lightning.pytorch.utilities.rank_zero"):
    logging.getLogger(_name).setLevel(logging.WARNING)


def build_trainer(options: Mapping[str, Any], steps: int) -> pl.Trainer:
    """Lightning's loop for `steps` optimiser steps, by the values of conf/train.yaml.

    Statistics of batch normalisation are shared between GPUs; between CPU processes, for which
    PyTorch cannot, each normalises its own share of the batch. Raises FoundryError for an unknown
    strategy, and for fsdp with what needs whole weights: a moving average, a compiled forward pass,
    muon.
    """
    where = options["trainer"]
    if where["strategy"] not in STRATEGIES:
        known = ", ".join(STRATEGIES)
        raise FoundryError(f"trainer.strategy: '{where['strategy']}' is not one of {known}")
    sharding = where["strategy"] == "fsdp"
    if sharding:
        muon = options["optimizer"]["name"] == "muon"
        whole = {"ema": options["ema"], "compile": options["compile"], "optimizer.name=muon": muon}
        for key, asked in whole.items():
            if asked:
                raise FoundryError(f"{key}: cannot be had with trainer.strategy: fsdp; take ddp")
    keep_freed_memory()
    warnings.filterwarnings("ignore", message=".*treespec", module="pytorch_lightning")
    return pl.Trainer(
        max_steps=steps,
        max_epochs=-1,
        accelerator="auto",
        strategy=ModelParallelStrategy() if sharding else where["strategy"],
        devices=where["devices"],
        num_nodes=where["nodes"],
        sync_batchnorm=where["strategy"] != "auto" and torch.cuda.is_available(),
        use_distributed_sampler=False,  # our batches are cut into shares already
        accumulate_grad_batches=options["accumulate"],
        precision=resolve_precision(options["precision"]),  # type: ignore[arg-type]
        callbacks=[TQDMProgressBar()] if sys.stderr.isatty() else [],
        enable_progress_bar=sys.stderr.isatty(),
        enable_checkpointing=False,
        gradient_clip_val=options["gradient_clip"],
        logger=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
