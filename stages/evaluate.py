"""Verify the trained model on held-out identities and on every benchmark at hand."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from facefoundry.data import read_split
from facefoundry.evaluation import (
    benchmark_sets,
    evaluate_set,
    held_out_set,
    no_benchmark_note,
    write_hardest_pairs,
    write_scores,
)
from facefoundry.model_dir import load_model
from facefoundry.stage import stage
from facefoundry.training import embedder


@stage("evaluate")
def main(cfg: DictConfig, out: Path) -> Mapping[str, Any]:
    backbone, spec = load_model(Path(cfg.model))
    crops, identities, _ = read_split(Path(cfg.faces), "test")
    benchmarks = benchmark_sets(Path(cfg.benchmarks))
    results: dict[str, Any] = {}
    scored = []
    for pair_set in [held_out_set("synthetic", crops, identities, cfg.seed), *benchmarks]:
        results[pair_set.name], scores = evaluate_set(embedder(backbone), pair_set, spec.thresholds)
        scored.append((pair_set, scores))
    write_scores(out / "scores.npz", scored)
    write_hardest_pairs(out / "pairs.png", scored[-1][0], scored[-1][1]["model"])
    if not benchmarks:
        results["benchmarks_note"] = no_benchmark_note(Path(cfg.benchmarks))
        print(results["benchmarks_note"])
    return results


if __name__ == "__main__":
    main()
