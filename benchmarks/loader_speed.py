"""Images per second of the loader alone against those that a training step takes.

Run: python benchmarks/loader_speed.py [--backbone small_resnet] [--batch 64] [--rounds 5]
One thread each; standard augmentation; CPU seconds, in turns, so that a neighbour's load counts
little. At a ratio of 3 a loader process feeds three training threads.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml
from against_arcface_torch import our_step

from facefoundry.data import AugmentedCrops, train_loader
from facefoundry.samplers import EpochSampler

IMAGES, BATCHES = 2000, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backbone", default="small_resnet")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    crops = rng.integers(0, 256, (IMAGES, 14, 14, 3), np.uint8).repeat(8, 1).repeat(8, 2)
    labels = rng.integers(0, 500, IMAGES)
    augmentation = yaml.safe_load(Path("conf/augmentation/standard.yaml").read_text())
    dataset = AugmentedCrops(crops, labels, augmentation, seed=0)
    sampler = EpochSampler(labels, arguments.batch, BATCHES, seed=0)
    loader = train_loader(dataset, sampler, workers=0)
    options = yaml.safe_load(Path(f"conf/backbone/{arguments.backbone}.yaml").read_text())
    first = next(iter(loader))
    step = our_step(options, first["image"], first["label"], compiled=False)
    step()
    loading = training = float("inf")
    for number in range(arguments.rounds):
        sampler.start_at(number)
        start = time.process_time()
        for _ in loader:
            pass
        loading = min(loading, (time.process_time() - start) / BATCHES)
        for _ in range(BATCHES):
            start = time.process_time()
            step()
            training = min(training, time.process_time() - start)
    print(f"{arguments.backbone}: loader {arguments.batch / loading:.0f} images/s", end=", ")
    print(f"training {arguments.batch / training:.0f}, ratio {training / loading:.2f}")


if __name__ == "__main__":
    main()
