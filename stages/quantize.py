"""Export the student to ONNX and to INT8, and measure what that cost."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from facefoundry.deploy import export_and_quantize
from facefoundry.stage import plain, stage


@stage("quantize")
def main(cfg: DictConfig, out: Path) -> Mapping[str, Any]:
    return export_and_quantize(plain(cfg), out)


if __name__ == "__main__":
    main()
