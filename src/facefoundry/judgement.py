"""The evaluate stage's work: all that a user must know to trust a model or to leave it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from facefoundry import manifest
from facefoundry.annotations import Annotations, as_groups
from facefoundry.benchmarks import Embed, Embeddings, Images, embed_images
from facefoundry.data import labels_of, read_split, sample_crops
from facefoundry.errors import FoundryError
from facefoundry.evaluation import (
    PairSet,
    benchmark_sets,
    embed_set,
    evaluate_set,
    held_out_set,
    no_benchmark_note,
    reference_scores,
    similarities,
)
from facefoundry.exhibits import write_embedding_map, write_hardest_pairs, write_neighbours
from facefoundry.fairness import numeric_groups
from facefoundry.images import contact_sheet, save_png
from facefoundry.leak_audit import audit, closest
from facefoundry.model_dir import load_model
from facefoundry.named_references import named_references
from facefoundry.out_of_distribution import out_of_distribution_metrics, rejection_limit
from facefoundry.probability import Curve, fit_curve, reliability
from facefoundry.references import reference_embeddings, sface
from facefoundry.results import SYNTHETIC
from facefoundry.robustness import robustness_metrics, sample_pairs
from facefoundry.scores import FILE, Scores, write_scores
from facefoundry.training import embedder
from facefoundry.verification import operating_point, pair_similarity


@dataclass(frozen=True)
class Judge:
    """A model under test: how it embeds, the threshold table that travels with it, the curve from
    similarity to probability, and the embedders that the user wants to see beside it."""

    embed: Embed
    thresholds: Sequence[Mapping[str, Any]]
    curve: Curve
    others: Mapping[str, Embed]
    seed: int

    @property
    def threshold(self) -> float | None:
        point = operating_point(self.thresholds)
        return point["threshold"] if point else None

    def measure(self, pair_set: PairSet, embeddings: Embeddings) -> tuple[dict[str, Any], Scores]:
        """Metrics of the model and of what stands beside it, and all similarities."""
        similarity = pair_similarity(embeddings, pair_set.pairs.index)
        beside = reference_scores(pair_set, self.others)
        metrics = evaluate_set(embeddings, pair_set, self.thresholds, self.seed)
        metrics["reliability"] = reliability(self.curve(similarity), pair_set.pairs.same)
        metrics |= {name: pair_set.metrics(found) for name, found in beside.items()}
        return metrics, pair_set.scores({"model": similarity} | beside)


def evaluate(options: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Judge the model by the values of conf/evaluate.yaml; write scores and pictures to `out`.

    Raises FoundryError for a broken benchmark or reference, naming it.
    """
    root = Path(options["benchmarks"])
    benchmarks = benchmark_sets(root)
    synthetic = synthetic_set(Path(options["faces"]), options["groups"], options["seed"])
    faces, identities, _ = read_split(Path(options["faces"]), "val")
    judge = make_judge(options, held_out_set("val pairs", faces, identities, options["seed"]))
    results: dict[str, Any] = {"probability": asdict(judge.curve)}
    scores: dict[str, Scores] = {}
    for pair_set in (synthetic, *benchmarks):
        embeddings = embed_set(judge.embed, pair_set)
        results[pair_set.name], scores[pair_set.name] = judge.measure(pair_set, embeddings)
        if pair_set is synthetic:
            write_embedding_map(out, embeddings, identity_numbers(synthetic), judge.seed)
            write_neighbours(out, synthetic.images, embeddings, identity_numbers(synthetic))
    write_scores(out / FILE, scores)
    results["leak"] = leaks(benchmarks, options, out)
    hardest = [synthetic, *benchmarks][-1]
    write_hardest_pairs(out / "pairs.png", hardest, scores[hardest.name].models["model"])
    if not benchmarks:
        results["benchmarks_note"] = no_benchmark_note(root)
        print(results["benchmarks_note"])
    return results | stress(judge, hardest, synthetic, faces, options)


def leaks(benchmarks: Sequence[PairSet], options: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """The leak audit of the synthetic faces against each benchmark, with a sheet of the nearest.

    Raises FoundryError where a set does not pass and `leak.gate` is `stop`.
    """
    limits = options["leak"]
    samples = sample_crops(Path(options["faces"]), limits["samples"], options["seed"])
    found: dict[str, Any] = {}
    for pair_set in benchmarks:
        embeddings = embed_images(sface(), samples, flip=False, title="leak audit")
        references = reference_embeddings("sface", pair_set.images, str(pair_set.digest))
        args = (limits["fmr"], limits)
        found[pair_set.name], near = audit(embeddings, references, pair_set.pairs, *args)
        pairs = closest(near, 10)
        rows = [[samples[i] for i, _ in pairs], [pair_set.images[i] for _, i in pairs]]
        save_png(contact_sheet(rows), out / f"leak-{pair_set.name}.png")
        if limits["gate"] == "stop" and not found[pair_set.name]["passed"]:
            raise FoundryError(
                f"leak audit: synthetic faces are too near to those of {pair_set.name}; look at"
                f" {out / f'leak-{pair_set.name}.png'}, or set leak.gate to report"
            )
    return found


def make_judge(options: Mapping[str, Any], val: PairSet) -> Judge:
    """The model of `options`, with its probability curve from the pairs of the val identities."""
    backbone, spec = load_model(Path(options["model"]))
    embed = embedder(backbone)
    curve = fit_curve(similarities(embed, val), val.pairs.same)
    others = named_references(options["references"])
    return Judge(embed, spec.thresholds, curve, others, options["seed"])


def synthetic_set(faces: Path, attributes: Sequence[str], seed: int) -> PairSet:
    """The test identities, with groups by their generator and by `attributes` where known."""
    images, identities, _ = read_split(faces, "test")
    table = manifest.read(faces)
    rows = manifest.rows(table.filter(pc.equal(table["split"], "test")))
    groups = {"generator": as_groups([row["generator"] or "" for row in rows])}
    for name in attributes:
        values = np.array([row["attributes"].get(name, np.nan) for row in rows], np.float64)
        groups[name] = numeric_groups(values)
    annotations = Annotations(labels_of(identities), groups)
    return held_out_set(SYNTHETIC, images, identities, seed, annotations)


def identity_numbers(pair_set: PairSet) -> Any:
    assert pair_set.annotations.identity is not None, "only for sets that name their identities"
    return pair_set.annotations.identity


def stress(
    judge: Judge, hardest: PairSet, synthetic: PairSet, val: Images, options: Mapping[str, Any]
) -> dict[str, Any]:
    """Degraded pairs of the hardest set there is, and strangers beside the synthetic faces; what
    is rejected as no face is set on the val faces."""
    pairs = sample_pairs(hardest.pairs, options["robustness_pairs"], judge.seed)
    limit = rejection_limit(judge.embed, val)
    return {
        "robustness": {"set": hardest.name}
        | robustness_metrics(judge.embed, hardest.images, pairs, judge.threshold, judge.seed),
        "out_of_distribution": out_of_distribution_metrics(
            judge.embed, synthetic.images, options["strangers"], judge.threshold, limit, judge.seed
        ),
    }
