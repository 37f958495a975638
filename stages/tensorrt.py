"""Build a TensorRT engine where one can be built, and the bundle that a Jetson builds from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from facefoundry.deploy import build_engines
from facefoundry.stage import plain, stage


@stage("tensorrt")
def main(cfg: DictConfig, out: Path) -> Mapping[str, Any]:
    return build_engines(plain(cfg), out)


if __name__ == "__main__":
    main()
