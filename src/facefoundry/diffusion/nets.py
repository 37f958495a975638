"""The networks, and their directory in the layout of diffusers.

`vae/`, `unet/` and `scheduler/` are read by diffusers itself; `population.safetensors` says whom to
invent, `identity/` is the model in whose embedding that is said, and `generator.json` what made the
weights. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderTiny, FlowMatchEulerDiscreteScheduler, UNet2DConditionModel
from diffusers.utils import logging
from safetensors import SafetensorError
from torch.nn import functional

from facefoundry.alignment import SIZE
from facefoundry.diffusion.population import Population
from facefoundry.errors import FoundryError
from facefoundry.inference import ONNX_NAMES, WEIGHTS, Model, open_model
from facefoundry.model_dir import SPEC as MODEL_SPEC

MARGIN = 8  # pixels around the ArcFace crop, or detectors miss the face
FULL_SIDE = SIZE + 2 * MARGIN
SIDE = FULL_SIDE // 2  # what the model paints: half of the resolution at a quarter of the work
PATCH = 2  # the autoencoder sees 2 x 2 pixels as 12 channels, for the same reason
SHRINK = 4  # side of the model's image over that of its latents
SPEC, POPULATION, IDENTITY = "generator.json", "population.safetensors", "identity"
PARTS = {
    "vae": AutoencoderTiny,
    "unet": UNet2DConditionModel,
    "scheduler": FlowMatchEulerDiscreteScheduler,
}

logging.set_verbosity_error()  # it warns of a key that it wrote itself


@dataclass
class FaceDiffuser:
    """vae: images to latents and back. unet: velocity of latents. spec: content of generator.json,
    with the licence chain under `licences` and the sampler's defaults under `sampling`."""

    vae: AutoencoderTiny
    unet: UNet2DConditionModel
    scheduler: FlowMatchEulerDiscreteScheduler
    population: Population
    spec: dict[str, Any]


def build_vae(width: int, latent_channels: int) -> AutoencoderTiny:
    """Images (B, 3, S, S) as patches to latents (B, C, S / 4, S / 4): one halving after the patches
    (Bohan, TAESD, 2023; patches as in Shi et al., "ESPCN", CVPR 2016)."""
    return AutoencoderTiny(
        in_channels=3 * PATCH**2,
        out_channels=3 * PATCH**2,
        encoder_block_out_channels=(width, width),
        decoder_block_out_channels=(width, width),
        num_encoder_blocks=(1, 3),
        num_decoder_blocks=(3, 2),
        latent_channels=latent_channels,
    )


def build_unet(widths: list[int], latent_channels: int, condition: int) -> UNet2DConditionModel:
    """Velocity of latents at a time in 0..1000, given a condition (B, `condition`) that scales and
    shifts every block, as in Dhariwal and Nichol, NeurIPS 2021. Attention at the coarse levels."""
    coarse = len(widths) - 1
    return UNet2DConditionModel(
        sample_size=SIDE // SHRINK,
        in_channels=latent_channels,
        out_channels=latent_channels,
        block_out_channels=tuple(widths),
        layers_per_block=1,
        down_block_types=("DownBlock2D", *["AttnDownBlock2D"] * coarse),
        mid_block_type="UNetMidBlock2D",
        up_block_types=(*["AttnUpBlock2D"] * coarse, "UpBlock2D"),
        attention_head_dim=32,
        norm_num_groups=16,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=condition,
        resnet_time_scale_shift="scale_shift",
    )


def encode(vae: AutoencoderTiny, images: torch.Tensor) -> torch.Tensor:
    """(B, 3, S, S) RGB in [-1, 1] -> latents (B, C, S / 4, S / 4), about unit variance."""
    raw = vae.encode(functional.pixel_unshuffle(images, PATCH)).latents
    return (raw - vae.config.shift_factor) * vae.config.scaling_factor


def decode(vae: AutoencoderTiny, latents: torch.Tensor) -> torch.Tensor:
    """The inverse of `encode`; values may lie a little outside of [-1, 1]."""
    raw = latents / vae.config.scaling_factor + vae.config.shift_factor
    return functional.pixel_shuffle(vae.decode(raw).sample, PATCH)


def to_unit_variance(vae: AutoencoderTiny, latents: torch.Tensor) -> torch.Tensor:
    """Have `encode` give latents (N, C, h, w) like these unit variance; return them so."""
    shift, scale = float(latents.mean()), 1 / float(latents.std())
    vae.register_to_config(shift_factor=shift, scaling_factor=scale)
    return (latents - shift) * scale


def condition(embeddings: torch.Tensor, controls: torch.Tensor) -> torch.Tensor:
    """(B, D) unit embeddings and (B, K) controls of unit variance -> (B, D + 1 + K).

    An identity that is zero is nobody in particular: the unconditional branch of guidance. The one
    more column tells the two cases apart.
    """
    known = (embeddings != 0).any(dim=1, keepdim=True)
    return torch.cat([embeddings * embeddings.shape[1] ** 0.5, known, controls], dim=1)


def save_diffuser(diffuser: FaceDiffuser, directory: Path) -> None:
    """Write the directory. Raises FoundryError for weights that are not finite."""
    for name in PARTS:
        part = getattr(diffuser, name)
        for key, value in getattr(part, "state_dict", dict)().items():
            if not torch.isfinite(value).all():
                raise FoundryError(f"{name}: {key} holds NaN or infinity; fit with a lower lr")
        part.save_pretrained(directory / name)
    for weights in directory.glob("*/*.safetensors"):  # which are written for the owner alone
        weights.chmod((weights.parent / "config.json").stat().st_mode)
    diffuser.population.save(directory / POPULATION)
    spec = diffuser.spec | {"controls": list(diffuser.population.controls)}
    (directory / SPEC).write_text(json.dumps(spec, indent=2, sort_keys=True) + "\n", "utf-8")


def keep_identity_model(source: Path, directory: Path) -> None:
    """Copy the embedder `source`, a file that `inference.find_model` found: embeddings of two
    trainings lie nowhere near each other, so a later model of its name would not do."""
    kept = directory / IDENTITY
    kept.mkdir()
    if source.name == WEIGHTS:
        shutil.copy(source, kept)
        shutil.copy(source.with_name(MODEL_SPEC), kept)
    else:
        shutil.copy(source, kept / ONNX_NAMES[0])


def open_identity_model(directory: Path) -> Model:
    """What `keep_identity_model` kept. Raises FoundryError where it is missing."""
    if not (directory / IDENTITY).is_dir():
        raise FoundryError(
            f"{directory / IDENTITY}: the model that told the identities apart is missing; set"
            " generator.candidates: 1, or fit again with `dvc repro generators/dvc.yaml`"
        )
    return open_model(directory / IDENTITY, threads=1)


def load_diffuser(directory: Path) -> FaceDiffuser:
    """Read a directory of `save_diffuser`, on the CPU, in evaluation mode.

    Raises FoundryError naming the part that is missing or broken.
    """
    try:
        spec: Mapping[str, Any] = json.loads((directory / SPEC).read_text("utf-8"))
        parts = {name: _load_part(directory / name, kind) for name, kind in PARTS.items()}
        population = Population.load(directory / POPULATION, spec["controls"])
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise FoundryError(
            f"{directory}: no diffusion model there ({reason}); fit one with"
            " `dvc repro generators/dvc.yaml` or name another as generator.model"
        ) from error
    return FaceDiffuser(**parts, population=population, spec=dict(spec))


def _load_part(path: Path, kind: Any) -> Any:
    if kind is FlowMatchEulerDiscreteScheduler:
        return kind.from_pretrained(path, local_files_only=True)
    part = kind.from_pretrained(
        path, local_files_only=True, use_safetensors=True, low_cpu_mem_usage=False
    )
    return part.eval()
