"""Any generator's faces judged by SFace: rate, detection, identity, and how many are distinct.

Run: python benchmarks/generators.py render stylegan diffusion [--identities 200] [--images 5]
     [--set diffusion.guidance=3 --set diffusion.model=models/fit_generator]
Names are the files of conf/generator. Two identities count as one from the cosine on that lets one
in a thousand of LFW's impostor pairs through; without the benchmark, one in a thousand of the first
generator's. Images per second are of one process beside whatever else runs on the machine.
With --probe STEPS the net of benchmarks/probe.py is trained on the found faces, as many steps for
each, and its score on every benchmark of the folder added: a reading to be written down.
With --min-consistency the measures are those of what curation would keep by that limit. With
--model a model's EER stands beside SFace's: where it is far lower, images of an identity share
more than a face, such as hair or a background, and labels teach that.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from probe import BATCH, benchmarks_root, scores, trained

from facefoundry.benchmarks import (
    embed_images,
    held_out_eer,
    held_out_pairs,
    load_images,
    read_benchmark,
)
from facefoundry.evaluation import benchmark_sets
from facefoundry.generator_quality import (
    Judged,
    judge,
    quality,
    sample_generator,
)
from facefoundry.inference import open_model
from facefoundry.references import reference_embeddings, sface
from facefoundry.synthesis import build_generator
from facefoundry.verification import pair_similarity, threshold_at

FMR = 1e-3
COLUMNS = {
    "images_per_second": "{:.1f}",
    "detected": "{:.1%}",
    "kept": "{:.1%}",
    "genuine_mean": "{:.3f}",
    "impostor_mean": "{:.3f}",
    "impostor_p99": "{:.3f}",
    "eer": "{:.2%}",
    "rank_1": "{:.1%}",
    "distinct": "{}",
    "identities": "{}",
}


def options_of(name: str, changes: list[str]) -> dict[str, Any]:
    """conf/generator/<name>.yaml with the changes `<name>.key=value`."""
    own = [change.removeprefix(f"{name}.") for change in changes if change.startswith(f"{name}.")]
    base = OmegaConf.create(yaml.safe_load(Path(f"conf/generator/{name}.yaml").read_text()))
    return OmegaConf.to_container(OmegaConf.merge(base, OmegaConf.from_dotlist(own)))  # type: ignore[return-value]


def lfw_threshold(folder: Path) -> float | None:
    """SFace's cosine at FMR 1e-3 on the benchmark's own pairs; None where it is not here."""
    if not folder.is_dir():
        return None
    benchmark = read_benchmark(folder)
    embeddings = reference_embeddings("sface", load_images(benchmark), benchmark.digest)
    similarity = pair_similarity(embeddings, benchmark.pairs.index)
    return threshold_at(similarity, benchmark.pairs.same, FMR)


def own_threshold(judged: Judged) -> float:
    pairs = held_out_pairs(judged.labels.tolist(), seed=0)
    return threshold_at(pair_similarity(judged.embeddings, pairs.index), pairs.same, FMR)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--identities", type=int, default=200)
    parser.add_argument("--images", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", nargs="*", default=[], action="extend", dest="changes")
    parser.add_argument("--min-consistency", type=float, default=-1.0, metavar="COSINE")
    parser.add_argument("--model", help="file or directory, as pretrained/clean")
    parser.add_argument("--probe", type=int, metavar="STEPS")
    parser.add_argument("--benchmarks", type=Path, help="the root that evaluate reads if left out")
    arguments = parser.parse_args()
    root = benchmarks_root(arguments.benchmarks)
    if arguments.probe and arguments.identities * arguments.images < BATCH:
        parser.error(f"--probe learns from batches of {BATCH} faces: ask for more of them")
    threshold = lfw_threshold(root / "lfw")
    benchmarks = benchmark_sets(root) if arguments.probe else []
    taught: list[tuple[Any, ...]] = []
    model = open_model(arguments.model) if arguments.model else None
    columns = COLUMNS | ({"model_eer": "{:.2%}"} if model else {})
    print("| generator | " + " | ".join(columns) + " |\n|" + "---|" * (len(columns) + 1))
    for name in arguments.names:
        generator = build_generator(**options_of(name, arguments.changes))
        count = (arguments.identities, arguments.images)
        sampled = sample_generator(generator, *count, arguments.seed)
        judged = judge(sampled, sface(), arguments.min_consistency)
        threshold = own_threshold(judged) if threshold is None else threshold
        row = quality(sampled, judged, threshold)
        if model:
            seen = embed_images(model.embed, judged.crops, flip=False, title="model")
            row["model_eer"] = held_out_eer(seen, judged.labels.tolist())
        cells = [form.format(row[key]) for key, form in columns.items()]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
        if arguments.probe:
            names = list(map(str, judged.labels))
            net, loss = trained(judged.crops, names, arguments.probe, arguments.seed)
            taught.append((name, len(names), loss, scores(net, benchmarks)))
    for name, images, loss, row in taught:
        print(f"\nThe probe on {images} images of {name}: last loss {loss:.2f};", end=" ")
        print("; ".join(f"{k} {v['accuracy']:.2f} %, TAR {v['tar']:.2f} %" for k, v in row.items()))
    print(f"\nDistinct at cosine {threshold:.3f}.")


if __name__ == "__main__":
    main()
