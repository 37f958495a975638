"""Fit the diffusion generator on a dataset of faces."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from facefoundry.diffusion.fitted import fit_generator
from facefoundry.stage import log_metrics, plain, stage


@stage("fit_generator")
def main(cfg: DictConfig, out: Path) -> Mapping[str, Any]:
    return fit_generator(plain(cfg), Path(cfg.faces), out, log_metrics)


if __name__ == "__main__":
    main()
