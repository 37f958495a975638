"""The boards: what each Jetson is, and what its JetPack can do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from facefoundry.errors import FoundryError
from facefoundry.params import CONF

# TensorRT that each JetPack carries, by NVIDIA's release notes.
JETPACKS = {
    "4.6": ("8.0", "8.2"),
    "5.1": ("8.5",),
    "6.0": ("8.6",),
    "6.1": ("10.3",),
    "6.2": ("10.3",),
    "7.0": ("10.13",),
    "7.1": ("10.13",),
    "7.2": ("11.4",),
}


@dataclass(frozen=True)
class DeviceSpec:
    """A target board, as in `conf/device/*.yaml`. `sm` is the compute capability times ten."""

    name: str
    sm: int
    jetpack: str
    tensorrt: str
    int8: bool
    fp16: bool
    dla: bool


def device_spec(values: Mapping[str, Any]) -> DeviceSpec:
    """Check a device table. Raises FoundryError that names the key and what is allowed."""
    known = {field.name for field in fields(DeviceSpec)}
    if set(values) != known:
        wrong = sorted(known ^ set(values))
        raise FoundryError(f"device: keys {wrong} are missing or unknown; give {sorted(known)}")
    kinds = {"name": str, "sm": int, "jetpack": str, "tensorrt": str}
    for key, value in values.items():
        kind = kinds.get(key, bool)
        if type(value) is not kind:
            raise FoundryError(
                f"device.{key}: {value!r} is no {kind.__name__}; a version is quoted"
            )
    device = DeviceSpec(**{str(key): value for key, value in values.items()})
    if device.jetpack not in JETPACKS:
        raise FoundryError(
            f"device.jetpack: {device.jetpack!r} is not in the table; use {', '.join(JETPACKS)}"
        )
    if device.tensorrt not in JETPACKS[device.jetpack]:
        raise FoundryError(
            f"device.tensorrt: {device.tensorrt!r} is not in the table for JetPack"
            f" {device.jetpack}, which has {' or '.join(JETPACKS[device.jetpack])}"
        )
    if device.int8 and device.sm < 70:
        raise FoundryError(f"device.int8: SM{device.sm} has no INT8; set it to false")
    return device


def read_device(name: str, tables: Path = CONF / "device") -> DeviceSpec:
    """The board's table `conf/device/<name>.yaml`. Raises FoundryError naming the known ones."""
    names = sorted(path.stem for path in tables.glob("*.yaml"))
    if name not in names:
        known = ", ".join(names) or f"none under {tables}; run from the project's root"
        raise FoundryError(f"device: '{name}' is not one of {known}")
    return device_spec(yaml.safe_load((tables / f"{name}.yaml").read_text()))
