"""Judge the trained model: held-out identities, benchmarks, groups, bad images, strangers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from facefoundry.judgement import evaluate
from facefoundry.scores import FILE
from facefoundry.stage import log_file, plain, stage


@stage("evaluate")
def main(cfg: DictConfig, out: Path) -> Mapping[str, Any]:
    metrics = evaluate(plain(cfg), out)
    log_file(out / FILE)  # what the next run is compared with
    return metrics


if __name__ == "__main__":
    main()
