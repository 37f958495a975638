"""One choice after another at equal steps, judged by held-out faces: a row of a table for each.

Run: python benchmarks/ablation.py train --steps 1000 [--also NAME=data/other ...]
     "" "optimizer.name=adamw optimizer.lr=2e-3"
Each argument is a set of overrides of the stage, train or distill, as on its command line; `""` is
none. It reads what the stage reads, and leaves no model and no MLflow run. The judges are all pairs
of the `val` identities of the data set itself and of every other that is named, which may be of
another generator: faces that were not trained on, and no benchmark of real people. "Correlation" is
that of the similarities of all pairs of images with SFace's.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facefoundry.benchmarks import Embed, embed_images, held_out_pairs
from facefoundry.data import Crops, read_split
from facefoundry.distiller import distill_student
from facefoundry.model_dir import load_model
from facefoundry.recognizer import train_recognizer
from facefoundry.references import sface
from facefoundry.stage import composed, plain
from facefoundry.training import embedder
from facefoundry.verification import eer, pair_similarity, roc, tar_at

STAGES = {"train": train_recognizer, "distill": distill_student}
FMR = 1e-3


@dataclass(frozen=True)
class Judge:
    """crops (N, 112, 112, 3) uint8 RGB of strangers, who they are, and what SFace sees (N, D)."""

    crops: Crops
    identities: list[str]
    seen: NDArray[np.float32]

    @classmethod
    def read(cls, faces: Path) -> Judge:
        crops, identities, _ = read_split(faces, "val")
        return cls(crops, identities, embed_images(sface(), crops, flip=False, title="judge"))

    def row(self, embed: Embed) -> str:
        embeddings = embed_images(embed, self.crops, flip=True, title="judged")
        pairs = held_out_pairs(self.identities, seed=0)
        similarity = pair_similarity(embeddings, pairs.index)
        upper = np.triu_indices(len(embeddings), 1)
        alike = [(view @ view.T)[upper] for view in (embeddings, self.seen)]
        correlation = float(np.corrcoef(*alike)[0, 1])
        known = tar_at(similarity, pairs.same, FMR)
        rate = "too few pairs" if known is None else f"{known:.2%}"
        return f"{eer(roc(similarity, pairs.same)):.2%}, {rate}, {correlation:.3f}"


def trained(stage: str, overrides: list[str]) -> tuple[Mapping[str, Any], Embed]:
    """The metrics of the stage with these overrides, and what embeds by its model."""
    options = plain(composed(stage, overrides))
    with TemporaryDirectory() as folder:
        out = Path(folder) / "ablation"
        out.mkdir()
        metrics = STAGES[stage](options, Path(options["faces"]), out, lambda *_: None)
        return metrics, embedder(load_model(out)[0])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("choices", nargs="+", metavar="OVERRIDES")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--also", nargs="*", default=[], metavar="NAME=FACES")
    arguments = parser.parse_args()
    named = dict(entry.partition("=")[::2] for entry in arguments.also)
    judges = {name: Judge.read(Path(p)) for name, p in {"own": "data/split", **named}.items()}
    heads = [f"{name}: EER, TAR@1e-3, correlation" for name in judges]
    print("| " + " | ".join(["choice", "CPU s", "last loss", *heads]) + " |")
    print("|" + "---|" * (3 + len(heads)))
    for choice in arguments.choices:
        start = time.process_time()
        fixed = [f"steps={arguments.steps}", f"validate_every={arguments.steps}"]
        metrics, embed = trained(arguments.stage, [*fixed, *choice.split()])
        spent, loss = time.process_time() - start, metrics["loss"]
        cells = [choice or "as it is", f"{spent:.0f}", f"{loss:.2f}"]
        cells += [judge.row(embed) for judge in judges.values()]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
