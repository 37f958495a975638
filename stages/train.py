"""Train the recogniser on the train identities; calibrate it on the val identities."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from facefoundry.recognizer import train_recognizer
from facefoundry.stage import log_metrics, plain, stage


@stage("train")
def main(cfg: DictConfig, out: Path) -> Mapping[str, Any]:
    return train_recognizer(plain(cfg), Path(cfg.faces), out, log_metrics)


if __name__ == "__main__":
    main()
