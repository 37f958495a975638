"""What a stage costs: time, memory and energy, as far as the machine lets them be read."""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

from facefoundry.gpu import GpuMeter, open_gpu_meter

RAPL = Path("/sys/class/powercap")


class Meter:
    """Starts when it is made; `spent` reads it.

    seconds: wall clock. cpu_seconds: of this process and the workers that have ended.
    peak_memory_mb: of this process and of its largest worker, added up: an upper bound for one.
    gpu_peak_memory_mb: what PyTorch held at most, where it used a GPU; then also what `GpuMeter`
    reads, where it can. energy_joules: of the whole
    processor package, whoever used it, where Intel's RAPL counters are there and may be read (by
    the superuser only on most systems).
    """

    def __init__(self, rapl: Path = RAPL, gpus: GpuMeter | None = None) -> None:
        self._rapl, self._gpus = rapl, gpus or open_gpu_meter()
        self._started, self._cpu, self._energy = time.monotonic(), _cpu_seconds(), _joules(rapl)

    def spent(self) -> dict[str, float]:
        cost = {
            "seconds": round(time.monotonic() - self._started, 2),
            "cpu_seconds": round(_cpu_seconds() - self._cpu, 2),
            "peak_memory_mb": round(_peak_memory_mb(), 1),
        }
        gpu, energy = _gpu_peak_memory_mb(), _joules(self._rapl)
        if gpu is not None:
            cost["gpu_peak_memory_mb"] = round(gpu, 1)
            cost |= self._gpus.spent() if self._gpus else {}
        if energy is not None and self._energy is not None and energy >= self._energy:
            cost["energy_joules"] = round(energy - self._energy, 1)  # a counter may start over
        return cost


def _cpu_seconds() -> float:
    usage = (resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(u.ru_utime + u.ru_stime for u in usage)


def _peak_memory_mb() -> float:
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (own + resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


def _gpu_peak_memory_mb() -> float | None:
    torch = sys.modules.get("torch")  # not imported for this: most stages do without
    if torch is None or not torch.cuda.is_initialized():
        return None
    return float(torch.cuda.max_memory_allocated()) / 1e6


def _joules(rapl: Path) -> float | None:
    """The packages' counters added up, None where there are none to read."""
    try:
        counters = [path.read_text() for path in rapl.glob("intel-rapl:[0-9]*/energy_uj")]
    except OSError:
        return None
    return sum(map(int, counters)) / 1e6 if counters else None
