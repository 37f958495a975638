"""From a training module to a model directory: fit, calibrate, write, and say what came of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from facefoundry import __version__, manifest
from facefoundry.backbones import count_parameters
from facefoundry.data import TrainingData
from facefoundry.evaluation import calibrate
from facefoundry.keeping import CACHE, discard
from facefoundry.licences import merged
from facefoundry.model_dir import ModelSpec, save_model
from facefoundry.precision import resolve_precision
from facefoundry.sharding import cache_key
from facefoundry.training import Chain, TrainingModule, embedder, fit, kept_point


def train(
    module: TrainingModule, faces: Path, out: Path, architecture: Mapping[str, Any], chain: Chain
) -> dict[str, Any]:
    """Fit, calibrate on the val identities and write the model directory; return the metrics, in
    the first of several processes.

    architecture: arguments of `build_backbone`. chain: licences beyond the data's own.
    """
    options, data = module.options, module.data
    cache = CACHE / out.name / cache_key(options, faces / manifest.MANIFEST)
    curves = fit(module, cache)
    if not module.trainer.is_global_zero:
        return {}
    module.finish()
    size, others = options["embedding_size"], dict(architecture)
    spec = ModelSpec(
        architecture=others.pop("architecture"),
        embedding_size=size,
        arguments=others,
        provenance=provenance(options, data),
        licences=merged(data.licences, chain),
        thresholds=calibrate(
            embedder(module.trained), data.val.crops, data.val.identities, options["seed"]
        ),
    )
    save_model(out, module.trained, spec)
    (out / "curves.json").write_text(json.dumps(curves, indent=1) + "\n")
    discard(cache)
    return {
        "steps": int(curves[-1]["step"]),
        **data.counts,
        "parameters": count_parameters(module.backbone),
        "loss": curves[-1]["loss"],
        "val_eer": curves[kept_point(curves, options["patience"])]["val_eer"],
    }


def provenance(options: Mapping[str, Any], data: TrainingData) -> dict[str, Any]:
    """What made the weights: data by hash, every option, and the `origin` that they started from,
    if any."""
    given = dict(options) | {"precision": resolve_precision(options["precision"])}
    start = {"start": given.pop("start")} if "start" in given else {}
    return {
        "data": {"manifest_sha256": data.manifest_sha256, **data.counts},
        "options": given,
        "facefoundry": __version__,
        **start,
    }
