"""Teach a small student the teacher's embedding."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from facefoundry.distiller import distill_student
from facefoundry.stage import log_metrics, plain, stage


@stage("distill")
def main(cfg: DictConfig, out: Path) -> Mapping[str, Any]:
    return distill_student(plain(cfg), Path(cfg.faces), out, log_metrics)


if __name__ == "__main__":
    main()
