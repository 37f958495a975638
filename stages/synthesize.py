"""Make identity-labelled faces, or take them from a folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from facefoundry.preview import write_preview
from facefoundry.stage import plain, stage
from facefoundry.synthesis.run import synthesize


@stage("synthesize")
def main(cfg: DictConfig, out: Path) -> Mapping[str, Any]:
    faces = synthesize(
        generator=plain(cfg.generator),
        identities=cfg.identities,
        images_per_identity=cfg.images_per_identity,
        identities_per_shard=cfg.identities_per_shard,
        seed=cfg.seed,
        out=out,
        workers=cfg.workers,
        policy=cfg.policy,
        executor=cfg.executor,
    )
    write_preview(faces, out / "preview.png", out / "shards")
    return {
        "identities": len(faces["identity"].unique()),
        "images": len(faces),
        "generators": sorted(faces["generator"].unique().to_pylist()),
    }


if __name__ == "__main__":
    main()
