"""Keep what is worth training on; say what was removed and why."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from facefoundry import manifest
from facefoundry.curation.run import curate
from facefoundry.preview import write_preview
from facefoundry.stage import plain, stage


@stage("curate")
def main(cfg: DictConfig, out: Path) -> Mapping[str, Any]:
    metrics = curate(Path(cfg.faces), out, plain(cfg), cfg.seed, cfg.workers, cfg.executor)
    write_preview(manifest.read(out), out / "preview.png")
    return metrics


if __name__ == "__main__":
    main()
