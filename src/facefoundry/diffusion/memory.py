"""What a fitted model owes to its training set: do samples come back as faces that it has seen?"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from facefoundry.benchmarks import Embed, Images, embed_images, held_out_pairs
from facefoundry.diffusion.faces import FittingFaces, crops_of, cut_margin
from facefoundry.errors import FoundryError
from facefoundry.images import Image, contact_sheet, save_png
from facefoundry.leak_audit import audit, closest
from facefoundry.progress import track
from facefoundry.references import sface
from facefoundry.synthesis.diffusion import Diffusion

SHOWN = 8  # identities on the preview


def build_auditor(judge: str, identity_embed: Embed) -> Embed:
    """SFace where curation has a judge; without one the model that knows the identities, which
    saw no photograph but took part in the fitting."""
    return identity_embed if judge == "none" else sface()


def memory_metrics(
    model: Path, data: FittingFaces, embed: Embed, options: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """`leak_audit.audit` of new samples against images of the training set, with `preview.png` and
    `nearest.png` (samples above, their nearest training images below) beside the model.

    options: identities and images_per_identity to sample, references, fmr and limits. Raises
    FoundryError where the audit does not pass and `gate` is `stop`.
    """
    samples = draw_samples(model, options["identities"], options["images_per_identity"], seed)
    save_png(contact_sheet(samples[:SHOWN]), model / "preview.png")
    crops = cut_margin(np.stack([image for row in samples for image in row]))
    references = slice(options["references"])
    seen: Images = crops_of(data.images[references])
    names = [str(label) for label in data.labels[references]]
    metrics, found = audit(
        embed_images(embed, crops, flip=False, title="samples"),
        embed_images(embed, seen, flip=False, title="training faces"),
        held_out_pairs(names, seed),
        options["fmr"],
        options,
        labelled=True,
    )
    pairs = closest(found, 10)
    rows = [[crops[i] for i, _ in pairs], [seen[i] for _, i in pairs]]
    save_png(contact_sheet(rows), model / "nearest.png")
    if options["gate"] == "stop" and not metrics["passed"]:
        raise FoundryError(
            f"memory audit: samples are too near to training faces; look at"
            f" {model / 'nearest.png'}, fit on more identities, or set memory.gate to report"
        )
    return metrics


def draw_samples(model: Path, identities: int, images: int, seed: int) -> list[list[Image]]:
    """Images of new identities as they come, however alike, a row for each."""
    generator = Diffusion(str(model), max_similarity=2)
    names = generator.identities(identities, seed)
    return [
        [face.image for face in generator.faces(name, images, seed)]
        for name in track(names, "samples")
    ]
