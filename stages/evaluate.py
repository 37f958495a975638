"""Judge the trained model: held-out identities, benchmarks, groups, bad images, strangers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from facefoundry.judgement import evaluate
from facefoundry.stage import plain, stage


@stage("evaluate")
def main(cfg: DictConfig, out: Path) -> Mapping[str, Any]:
    return evaluate(plain(cfg), out)


if __name__ == "__main__":
    main()
