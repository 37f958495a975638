"""What the GPUs of this machine have spent, by NVIDIA's management library."""

from __future__ import annotations

import threading
import time
from importlib import import_module
from typing import Any

SAMPLE_SECONDS = 1.0


class GpuMeter:
    """Energy and busy time of all NVIDIA GPUs together, whoever used them, from when it is made.

    Raises whatever `pynvml` does where there is no driver.
    """

    def __init__(self, nvml: Any, sample_seconds: float = SAMPLE_SECONDS) -> None:
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
        self._nvml, self._pause = nvml, sample_seconds
        self._gpus = [nvml.nvmlDeviceGetHandleByIndex(number) for number in range(count)]
        self._started, self._busy = self._joules(), 0.0
        threading.Thread(target=self._sample, daemon=True, name="gpu meter").start()

    def spent(self) -> dict[str, float]:
        """`gpu_seconds`: utilisation over time, a GPU that is half busy counting half.
        `gpu_energy_joules`: left out where the GPU does not count it."""
        found, energy = {"gpu_seconds": round(self._busy, 1)}, self._joules()
        if energy is not None and self._started is not None:
            found["gpu_energy_joules"] = round(energy - self._started, 1)
        return found

    def _sample(self) -> None:
        before = time.monotonic()
        while True:
            time.sleep(self._pause)
            now = time.monotonic()
            try:
                rates = [self._nvml.nvmlDeviceGetUtilizationRates(gpu).gpu for gpu in self._gpus]
            except self._nvml.NVMLError:
                return  # it does not tell: what was counted so far stands
            self._busy += (now - before) * sum(rates) / 100
            before = now

    def _joules(self) -> float | None:
        total = self._nvml.nvmlDeviceGetTotalEnergyConsumption  # millijoules since the driver
        try:
            return sum(total(gpu) for gpu in self._gpus) / 1000
        except self._nvml.NVMLError:
            return None


def open_gpu_meter() -> GpuMeter | None:
    """None where there is no NVIDIA GPU, or no `nvidia-ml-py` to ask it."""
    try:
        nvml = import_module("pynvml")
        return GpuMeter(nvml)
    except ImportError:
        return None
    except nvml.NVMLError:
        return None
