"""From a dataset to a diffusion model's directory: read, fit, keep, and measure what it owes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderTiny, FlowMatchEulerDiscreteScheduler

from facefoundry import __version__, manifest
from facefoundry.backbones import count_parameters
from facefoundry.benchmarks import Images
from facefoundry.data import normalise
from facefoundry.diffusion.faces import FittingFaces, kept_array, read_faces, templates
from facefoundry.diffusion.fit import AutoencoderFitting, FlowFitting
from facefoundry.diffusion.memory import build_auditor, memory_metrics
from facefoundry.diffusion.nets import (
    FaceDiffuser,
    build_unet,
    build_vae,
    encode,
    keep_identity_model,
    save_diffuser,
    to_unit_variance,
)
from facefoundry.diffusion.population import Floats, fit_population
from facefoundry.inference import open_model
from facefoundry.keeping import CACHE
from facefoundry.licences import enforce, merged
from facefoundry.model_dir import read_spec
from facefoundry.progress import track
from facefoundry.release import commit
from facefoundry.resumable import Curves, LogMetrics
from facefoundry.sharding import cache_key

SHARED = ("seed", "precision", "trainer", "gradient_clip", "accumulate", "checkpoint_every", "ema")
LATENTS_OF = (*SHARED, "images", "identity_model", "autoencoder")


def fit_generator(
    options: Mapping[str, Any], faces: Path, out: Path, log_metrics: LogMetrics
) -> dict[str, Any]:
    """Fit on the dataset `faces`, write the model to `out` and return its metrics.

    options: the values of conf/fit_generator.yaml. Raises FoundryError where the licence chain of
    the faces, or of the model that knows identities, breaks the policy.
    """
    identity_model = open_model(options["identity_model"])
    chain = licence_chain(faces, identity_model.source.parent)
    enforce(options["policy"], chain)
    who = {"identity_model_sha256": identity_model.digest}
    # of what the latents rest on alone, so that another flow takes them up
    latents_of = {key: options[key] for key in LATENTS_OF} | who
    cache = CACHE / out.name / cache_key(latents_of, faces / manifest.MANIFEST)
    data = read_faces(faces, options["images"], options["controls"])
    known = kept_array(
        cache / "templates.npy",
        lambda: templates(data.images, data.labels, identity_model.embed),
    )
    diffuser, curves = _fit(options, data, known, cache, log_metrics)
    diffuser.spec |= {"licences": chain, "provenance": _provenance(options, faces, data) | who}
    save_diffuser(diffuser, out)
    keep_identity_model(identity_model.source, out)
    (out / "curves.json").write_text(json.dumps(curves, indent=1) + "\n")
    embed = build_auditor(options["judge"], identity_model.embed)
    memory = memory_metrics(out, data, embed, options["memory"], options["seed"])
    shutil.rmtree(cache)
    return {
        "identities": len(known),
        "images": len(data.images),
        "parameters": {
            "vae": count_parameters(diffuser.vae),
            "unet": count_parameters(diffuser.unet),
        },
        "loss": {name: curve[-1]["loss"] for name, curve in curves.items()},
        "memory": memory,
    }


def _fit(
    options: Mapping[str, Any],
    data: FittingFaces,
    known: Floats,
    cache: Path,
    log_metrics: LogMetrics,
) -> tuple[FaceDiffuser, dict[str, Curves]]:
    """Fit one network after the other; the model without a spec, and the curves by name.

    The seed is set before each network is made, since a resumed fit has drawn less until there.
    """
    torch.manual_seed(options["seed"])
    part = _part(options, "autoencoder")
    net = build_vae(part["width"], part["channels"])
    coding = AutoencoderFitting(net, torch.from_numpy(data.images), part, log_metrics)
    vae = coding.fit(cache)
    raw = kept_array(cache / "latents.npy", lambda: all_latents(vae, data.images))
    population = fit_population(known, options["components"], data.controls, data.values)
    torch.manual_seed(options["seed"])
    size = known.shape[1] + 1 + len(data.controls)
    flow = FlowFitting(
        build_unet(options["flow"]["widths"], part["channels"], size),
        to_unit_variance(vae, torch.from_numpy(raw)),
        torch.from_numpy(known[data.labels]),
        torch.from_numpy(population.standardise(data.values)),
        _part(options, "flow"),
        log_metrics,
    )
    unet = flow.fit(cache / cache_key(options["flow"]))
    diffuser = FaceDiffuser(vae, unet, FlowMatchEulerDiscreteScheduler(), population, {})
    return diffuser, {coding.name: coding.curves, flow.name: flow.curves}


def licence_chain(faces: Path, identity_model: Path) -> list[dict[str, str]]:
    """What the fitted model rests on: the faces, and the model directory that knows identities."""
    return merged(manifest.licences(manifest.read(faces)), read_spec(identity_model).licences)


def _provenance(options: Mapping[str, Any], faces: Path, data: FittingFaces) -> dict[str, Any]:
    return {
        "manifest_sha256": sha256((faces / manifest.MANIFEST).read_bytes()).hexdigest(),
        "images": len(data.images),
        "identities": int(data.labels.max()) + 1,
        "options": {key: value for key, value in options.items() if key not in ("faces", "out")},
        "facefoundry": __version__,
        "commit": commit(Path()),
    }


def _part(options: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The options of one network with those that both share."""
    return {key: options[key] for key in SHARED} | dict(options[name])


@torch.inference_mode()
def all_latents(vae: AutoencoderTiny, images: Images, batch: int = 64) -> Floats:
    """(N, C, h, w) of images (N, S, S, 3) uint8 RGB, as the autoencoder gives them."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    vae = vae.to(device)
    parts = []
    for start in track(range(0, len(images), batch), "latents", unit="batches"):
        planes = torch.from_numpy(images[start : start + batch]).permute(0, 3, 1, 2).to(device)
        parts.append(encode(vae, normalise(planes)).float().cpu().numpy())
    vae.cpu()
    return np.concatenate(parts)
