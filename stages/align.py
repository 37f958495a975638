"""Cut every face to the 112 x 112 template."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from facefoundry.align import align
from facefoundry.preview import write_preview
from facefoundry.stage import stage


@stage("align")
def main(cfg: DictConfig, out: Path) -> Mapping[str, Any]:
    crops = align(Path(cfg.faces), out, cfg.images_per_shard, cfg.workers, cfg.executor)
    write_preview(crops, out / "preview.png", out / "shards")
    return {"identities": len(crops["identity"].unique()), "images": len(crops)}


if __name__ == "__main__":
    main()
