"""Divide the identities into train, val and test."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from facefoundry import manifest
from facefoundry.dataset_card import CARD, dataset_card
from facefoundry.splits import split_identities
from facefoundry.stage import plain, stage


@stage("split")
def main(cfg: DictConfig, out: Path) -> Mapping[str, Any]:
    crops = manifest.read(Path(cfg.faces))
    rows = manifest.rows(crops)
    identities = [row["identity"] for row in rows]
    generators = [row["generator"] for row in rows]
    assigned = split_identities(identities, generators, plain(cfg.fractions), cfg.seed)
    for row in rows:
        row["split"] = assigned[row["identity"]]
    chain = manifest.licences(crops)
    manifest.write(manifest.with_licences(manifest.table(rows), chain), out)
    (out / CARD).write_text(dataset_card(rows, chain), encoding="utf-8")
    return {
        "identities": dict(Counter(assigned.values())),
        "images": dict(Counter(row["split"] for row in rows)),
    }


if __name__ == "__main__":
    main()
