"""The curate stage's work: measure every image, then decide what stays and say why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image as PillowImage

from facefoundry import manifest
from facefoundry.alignment import Detector, warp
from facefoundry.benchmarks import Embed, embed_images
from facefoundry.curation import rules
from facefoundry.errors import FoundryError
from facefoundry.images import Image, contact_sheet, decode_image, save_png
from facefoundry.journal import record
from facefoundry.keeping import CACHE, discard
from facefoundry.licences import SFACE, YUNET, enforce, merged
from facefoundry.progress import Tally
from facefoundry.references import sface
from facefoundry.scores import histogram
from facefoundry.sharding import Row, cache_key, chunked, count_images, kept, run_pool
from facefoundry.shards import read_member
from facefoundry.weights import sface_path, yunet_path

SCHEMA = manifest.SCHEMA.append(pa.field("embedding", pa.list_(pa.float32())))
EMBEDDINGS = "embeddings.parquet"  # of what stays, for a teacher that is not ours
JUDGES = ("sface", "none")

NO_FACE = "no face found"
LOW_QUALITY = "low detector score"
DUPLICATE = "near-duplicate"
INCONSISTENT = "unlike its identity"
TOO_CLOSE = "identity too close to another"
TOO_FEW = "identity with too few images"
IMBALANCE = "more images than balance allows"


class Decisions:
    """Rows that are still in, and a reason for each that is out."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        self.removed: list[dict[str, Any]] = []

    def drop(self, out: Sequence[bool], reason: str, other: Sequence[str | None] = ()) -> None:
        """Remove rows where `out` is true; `other` names what each one was compared with."""
        for place, (row, gone) in enumerate(zip(self.rows, out, strict=True)):
            if gone:
                note = {"image_id": row["image_id"], "identity": row["identity"], "reason": reason}
                self.removed.append(note | {"other": other[place] if len(other) else None})
        self.rows = [row for row, gone in zip(self.rows, out, strict=True) if not gone]
        if not self.rows:
            counts = Counter(note["reason"] for note in self.removed)
            raise FoundryError(
                f"nothing is left after '{reason}' ({dict(counts)}); relax conf/curate.yaml"
            )

    def labels(self) -> tuple[list[str], rules.Ints]:
        names, inverse = np.unique([row["identity"] for row in self.rows], return_inverse=True)
        return names.tolist(), inverse.astype(np.int64)

    def column(self, name: str, dtype: Any = np.float32) -> Any:
        return np.array([row[name] for row in self.rows], dtype)


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


def decide(measured: Sequence[Row], limits: Mapping[str, Any]) -> Decisions:
    """Apply the rules in turn, each to what the ones before it left."""
    faces = Decisions(measured)
    faces.drop([row["landmarks"] is None for row in faces.rows], NO_FACE)
    faces.drop([(row["quality"] or 1.0) < limits["min_quality"] for row in faces.rows], LOW_QUALITY)
    _drop_duplicates(faces, limits["near_duplicate_bits"])
    if limits["judge"] != "none":
        _, labels = faces.labels()
        cosine = rules.consistency(faces.column("embedding"), labels)
        faces.drop((cosine < limits["min_consistency"]).tolist(), INCONSISTENT)
        _separate_identities(faces, limits["max_similarity"], limits["merge_similar"])
    _, labels = faces.labels()
    faces.drop((np.bincount(labels)[labels] < limits["min_images"]).tolist(), TOO_FEW)
    _, labels = faces.labels()
    quality = np.array([row["quality"] or 0.0 for row in faces.rows], np.float32)
    keep = rules.balanced(labels, quality, limits["max_imbalance"])
    faces.drop((~keep).tolist(), IMBALANCE)
    return faces


def _drop_duplicates(faces: Decisions, bits: int) -> None:
    quality = np.array([row["quality"] or 0.0 for row in faces.rows], np.float32)
    original = rules.near_duplicates(faces.column("phash", np.uint64), quality, bits)
    others = [faces.rows[index]["image_id"] if index >= 0 else None for index in original]
    faces.drop((original >= 0).tolist(), DUPLICATE, others)


def _separate_identities(faces: Decisions, max_similarity: float, merge: bool) -> None:
    """Two names for one face: keep the larger, or give both its name."""
    names, labels = faces.labels()
    centres = rules.identity_centres(faces.column("embedding"), labels)
    target = rules.similar_identities(centres, np.bincount(labels), max_similarity)
    if merge:
        for row, label in zip(faces.rows, labels, strict=True):
            row["identity"] = names[target[label]]
        return
    others = [names[target[label]] for label in labels]
    faces.drop((target[labels] != labels).tolist(), TOO_CLOSE, others)


def measure(
    faces: Path,
    out: Path,
    chunk: int,
    judge: str,
    workers: int,
    executor: str,
    min_quality: float,
) -> list[Row]:
    """Rows of the dataset `faces` with phash and, by a judge, landmarks, quality and embedding.

    min_quality: below it an image counts as rejected in the display.
    """
    source = manifest.rows(manifest.read(faces))
    key = cache_key({"chunk": chunk, "judge": judge}, faces / manifest.MANIFEST)
    cache = CACHE / out.name / key
    cache.mkdir(parents=True, exist_ok=True)
    chunks = list(enumerate(chunked(source, chunk)))
    work, look = partial(_measure_chunk, cache, judge), partial(_look, min_quality)
    paths = run_pool(work, chunks, workers, f"{out.name}: chunks", executor, look)
    return manifest.rows(pa.concat_tables(pq.read_table(path) for path in paths))


def _look(min_quality: float, tally: Tally, path: Path) -> None:
    """Count what one image alone is rejected for; the other rules need all of them."""
    count_images(tally, path)
    for row in pq.read_table(path, columns=["landmarks", "quality"]).to_pylist():
        if row["landmarks"] is None:
            tally.rejected[NO_FACE] += 1
        elif (row["quality"] or 1.0) < min_quality:
            tally.rejected[LOW_QUALITY] += 1


def _measure_chunk(cache: Path, judge: str, numbered: tuple[int, Sequence[Row]]) -> Path:
    number, chunk = numbered

    def make() -> pa.Table:
        images = [decode_image(read_member(row), row["image_id"]) for row in chunk]
        rows = [_hashed(row, image) for row, image in zip(chunk, images, strict=True)]
        if judge != "none":
            _judge(rows, images)
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    return kept(cache / f"{number:06d}.parquet", make)


def _hashed(row: Row, image: Image) -> Row:
    bits = imagehash.phash(PillowImage.fromarray(image)).hash.ravel()
    return row | {
        "phash": int(np.packbits(bits).view(">u8")[0]),
        "attributes": list(row["attributes"].items()),
        "embedding": None,
    }


def _judge(rows: Sequence[Row], images: Sequence[Image]) -> None:
    """Fill in landmarks, quality and embedding. Detected landmarks come first, as a user's
    photographs will have those, then the generator's own."""
    crops = []
    for row, image in zip(rows, images, strict=True):
        if found := _detector().detect(image):
            row["quality"] = found[0].score
            row["landmarks"] = found[0].landmarks.ravel().tolist()
        if row["landmarks"] is not None:
            landmarks = np.reshape(row["landmarks"], (5, 2)).astype(np.float32)
            crops.append(warp(image, landmarks))
    if crops:
        embeddings = iter(embed_images(_embedder(), np.stack(crops), flip=False))
        for row in rows:
            row["embedding"] = None if row["landmarks"] is None else next(embeddings)


@cache
def _detector() -> Detector:
    return Detector()


@cache
def _embedder() -> Embed:
    return sface(threads=1)


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
            row.append(decode_image(read_member(places[note["image_id"]]), note["image_id"]))
    path.unlink(missing_ok=True)
    if sheets:
        save_png(contact_sheet(list(sheets.values())), path)
