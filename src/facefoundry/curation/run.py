"""The curate stage's work: measure every image, decide what stays, and leave both to be seen."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from facefoundry import manifest
from facefoundry.curation import rules
from facefoundry.curation.decide import (
    INCONSISTENT,
    LOW_QUALITY,
    NO_FACE,
    TOO_CLOSE,
    Decisions,
    decide,
)
from facefoundry.curation.measure import SCHEMA, measure
from facefoundry.errors import FoundryError
from facefoundry.images import Image, contact_sheet, save_png
from facefoundry.journal import record
from facefoundry.keeping import CACHE, discard
from facefoundry.licences import SFACE, YUNET, enforce, merged
from facefoundry.scores import histogram
from facefoundry.sharding import Row
from facefoundry.shards import image_of
from facefoundry.weights import sface_path, yunet_path

EMBEDDINGS = "embeddings.parquet"  # of what stays, for a teacher that is not ours
JUDGES = ("sface", "none")


def curate(
    faces: Path,
    out: Path,
    limits: Mapping[str, Any],
    seed: int,
    workers: int,
    executor: str = "local",
) -> dict[str, Any]:
    """Write the manifest of what stays, its embeddings, `removed.json` and `removed.png`; return
    the metrics.

    limits: the keys of conf/curate.yaml. executor: see `sharding.run_pool`. Without a judge only
    near-duplicates, small identities and imbalance are removed, and the landmarks must be the
    generator's. Raises FoundryError for an unknown judge, or where the licence chain breaks the
    policy.
    """
    if limits["judge"] not in JUDGES:
        raise FoundryError(f"curate.judge: '{limits['judge']}' is not one of {', '.join(JUDGES)}")
    chain = merged(manifest.licences(manifest.read(faces)), judge_licences(limits["judge"]))
    enforce(limits["policy"], chain)
    measured = measure(
        faces, out, limits["chunk"], limits["judge"], workers, executor, limits["min_quality"]
    )
    decisions = decide(measured, limits)
    kept_rows = manifest.table(decisions.rows)
    manifest.write(manifest.with_licences(kept_rows, chain), out)
    write_embeddings(decisions.rows, out / EMBEDDINGS)
    (out / "removed.json").write_text(json.dumps(decisions.removed, indent=1) + "\n")
    write_removed_sheet(measured, decisions.removed, out / "removed.png")
    discard(CACHE / out.name)
    rejected = dict(Counter(note["reason"] for note in decisions.removed))
    record("rejected", stage=out.name, **rejected)
    names, labels = decisions.labels()
    counts = np.bincount(labels)
    return {
        "identities": len(names),
        "images": len(decisions.rows),
        "images_before": len(measured),
        "images_per_identity": {"min": int(counts.min()), "max": int(counts.max())},
        "removed": rejected,
        **_judged(limits["judge"], measured, decisions, labels, seed),
    }


def judge_licences(judge: str) -> list[dict[str, str]]:
    """What the rows owe to the detector and the embedder that chose them."""
    if judge == "none":
        return []
    return [YUNET.of(yunet_path()).entry(), SFACE.of(sface_path()).entry()]


def _judged(
    judge: str, measured: Sequence[Row], kept: Decisions, labels: rules.Ints, seed: int
) -> dict[str, Any]:
    """The metrics that need a judge, or what was not run for want of one."""
    if judge == "none":
        return {"not_run": f"no judge: {NO_FACE}, {LOW_QUALITY}, {INCONSISTENT}, {TOO_CLOSE}"}
    genuine, impostor = rules.pair_cosines(kept.column("embedding"), labels, seed)
    return {
        "detected_share": float(np.mean([row["quality"] is not None for row in measured])),
        "similarity": rules.similarity_summary(genuine, impostor),
        "similarity_histogram": {
            "genuine": histogram(genuine),
            "impostor": histogram(impostor),
        },
    }


def write_embeddings(rows: Sequence[Row], path: Path) -> None:
    """`image_id` and the judge's L2-normalised `embedding`; empty without a judge."""
    judged = sorted((row for row in rows if row["embedding"]), key=lambda row: row["image_id"])
    columns = {name: [row[name] for row in judged] for name in ("image_id", "embedding")}
    schema = pa.schema([SCHEMA.field("image_id"), SCHEMA.field("embedding")])
    pq.write_table(pa.table(columns, schema=schema), path, compression="zstd")


def write_removed_sheet(
    measured: Sequence[Row], removed: Sequence[Mapping[str, Any]], path: Path, images: int = 12
) -> None:
    """A contact sheet of what was removed: a row for each reason, in the order of the rules. None
    where nothing was removed."""
    places = {row["image_id"]: row for row in measured}
    sheets: dict[str, list[Image]] = {}
    for note in removed:
        row = sheets.setdefault(note["reason"], [])
        if len(row) < images:
            row.append(image_of(places[note["image_id"]]))
    path.unlink(missing_ok=True)
    if sheets:
        save_png(contact_sheet(list(sheets.values())), path)
