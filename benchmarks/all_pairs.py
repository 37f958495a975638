"""How models tell a benchmark's people apart: its protocol, and all pairs of its images beside it.

Run: python benchmarks/all_pairs.py pretrained/clean --benchmark ../shared/benchmarks/lfw
A model may be several, joined by +, whose similarities are averaged. In percent, mirror sum: the
folds' accuracy, EER and TAR at FMR 1e-2 and 1e-3 over the protocol's pairs, then TAR at FMR 1e-2,
1e-3 and 1e-4 over all pairs. LFW's protocol has 3,000 pairs of strangers, so that its FMR 1e-3 is
the threshold of three of them; all pairs of its images are thirty million.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from facefoundry.annotations import linked_identities
from facefoundry.benchmarks import Pairs, embed_images, load_images, read_benchmark
from facefoundry.inference import open_model
from facefoundry.verification import pair_similarity, tar_at, verification_metrics

RATES = 1e-2, 1e-3, 1e-4
HEADER = "| model | accuracy | EER | TAR@1e-2 | TAR@1e-3 | all pairs: TAR@1e-2, 1e-3, 1e-4 |"


def row(seen: np.ndarray, pairs: Pairs) -> str:
    """The cells of one model, whose embeddings of the images are (N, D) of length 1."""
    protocol = verification_metrics(pair_similarity(seen, pairs.index), pairs.same, pairs.fold)
    similarity, same = all_pairs(seen, linked_identities(pairs.index, pairs.same, len(seen)))
    names = "eer", "tar_at_fmr_1e-2", "tar_at_fmr_1e-3"
    cells = [f"{percent(protocol['accuracy'])} ± {percent(protocol['accuracy_std'])}"]
    cells += [percent(protocol[name]) for name in names]
    cells += [", ".join(percent(tar_at(similarity, same, rate)) for rate in RATES)]
    return " | ".join(cells)


def all_pairs(seen: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The similarity of each two of embeddings (N, D), and whether they are of one identity."""
    first, second = np.triu_indices(len(seen), 1)
    return (seen @ seen.T)[first, second], labels[first] == labels[second]


def percent(share: float | None) -> str:
    return "too few pairs" if share is None else f"{100 * share:.2f}"


def joined(parts: list[np.ndarray]) -> np.ndarray:
    """Embeddings whose similarity is the mean of that of the parts, each (N, D) of length 1."""
    return np.concatenate(parts, axis=1) / np.sqrt(len(parts))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="+", help="files or directories, as pretrained/clean")
    parser.add_argument("--benchmark", type=Path, required=True, help="a folder with pairs.csv")
    arguments = parser.parse_args()
    benchmark = read_benchmark(arguments.benchmark)
    crops = load_images(benchmark)
    print(HEADER + "\n" + "|---" * (HEADER.count("|") - 1) + "|")
    seen: dict[str, Any] = {}
    for model in arguments.models:
        for name in model.split("+"):
            if name not in seen:
                seen[name] = embed_images(open_model(name).embed, crops, title=name)
        embeddings = joined([seen[name] for name in model.split("+")])
        print(f"| {model} | {row(embeddings, benchmark.pairs)} |", flush=True)


if __name__ == "__main__":
    main()
