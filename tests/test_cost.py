"""The meter reads what is there, and leaves out what is not."""

import os
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from facefoundry.cost import Meter
from facefoundry.gpu import GpuMeter, open_gpu_meter


def counter(rapl: Path, package: int, microjoules: int) -> None:
    folder = rapl / f"intel-rapl:{package}"
    folder.mkdir(exist_ok=True)
    (folder / "energy_uj").write_text(f"{microjoules}\n")


def test_time_awake_and_asleep(tmp_path: Path) -> None:
    meter = Meter(tmp_path)
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass
    time.sleep(0.2)
    cost = meter.spent()
    assert 0.2 <= cost["cpu_seconds"] < cost["seconds"]
    assert cost["seconds"] >= 0.4 and cost["peak_memory_mb"] > 5
    assert "energy_joules" not in cost and "gpu_peak_memory_mb" not in cost


def test_energy_of_all_packages(tmp_path: Path) -> None:
    counter(tmp_path, 0, 5_000_000)
    counter(tmp_path, 1, 1_000_000)
    meter = Meter(tmp_path)
    counter(tmp_path, 0, 12_500_000)
    counter(tmp_path, 1, 2_000_000)
    assert meter.spent()["energy_joules"] == pytest.approx(8.5)


def test_a_counter_that_started_over_is_left_out(tmp_path: Path) -> None:
    counter(tmp_path, 0, 5_000_000)
    meter = Meter(tmp_path)
    counter(tmp_path, 0, 1_000)
    assert "energy_joules" not in meter.spent()


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may read everything")
def test_a_counter_that_may_not_be_read_is_left_out(tmp_path: Path) -> None:
    counter(tmp_path, 0, 5_000_000)
    (tmp_path / "intel-rapl:0/energy_uj").chmod(0)
    assert "energy_joules" not in Meter(tmp_path).spent()


class FakeNvml(ModuleType):
    """Two GPUs that draw 100 W each; the first is 60 % busy, the second idle."""

    NVMLError = type("NVMLError", (Exception,), {})

    def __init__(self, works: bool = True, counts_energy: bool = True) -> None:
        super().__init__("pynvml")
        self.works, self.counts_energy, self.seconds = works, counts_energy, 50.0

    def nvmlInit(self) -> None:  # noqa: N802
        if not self.works:
            raise self.NVMLError("no driver")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetUtilizationRates(self, gpu: int) -> SimpleNamespace:  # noqa: N802
        return SimpleNamespace(gpu=60 * (gpu == 0))

    def nvmlDeviceGetTotalEnergyConsumption(self, gpu: int) -> int:  # noqa: N802
        if not self.counts_energy:
            raise self.NVMLError("not supported")
        return int(1000 * 100 * self.seconds)


def test_energy_and_busy_time_of_the_gpus() -> None:
    nvml = FakeNvml()
    started = time.monotonic()
    meter = GpuMeter(nvml, sample_seconds=0.01)
    nvml.seconds += 30
    while meter.spent()["gpu_seconds"] < 0.1:
        assert time.monotonic() - started < 20
        time.sleep(0.01)
    spent, elapsed = meter.spent(), time.monotonic() - started
    assert spent["gpu_energy_joules"] == pytest.approx(2 * 100 * 30)
    assert spent["gpu_seconds"] <= 0.6 * elapsed + 0.05


def test_a_gpu_that_does_not_count_its_energy() -> None:
    assert set(GpuMeter(FakeNvml(counts_energy=False)).spent()) == {"gpu_seconds"}


def test_no_driver_or_no_library_is_no_meter(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, there in ((None, False), (FakeNvml(works=False), False), (FakeNvml(), True)):
        monkeypatch.setitem(sys.modules, "pynvml", module)
        assert (open_gpu_meter() is not None) is there


def test_gpus_are_in_the_cost_only_of_a_stage_that_used_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cuda = SimpleNamespace(is_initialized=lambda: False, max_memory_allocated=lambda: 2e9)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    meter = Meter(tmp_path, GpuMeter(FakeNvml()))
    assert not [key for key in meter.spent() if key.startswith("gpu")]
    cuda.is_initialized = lambda: True
    cost = meter.spent()
    assert cost["gpu_peak_memory_mb"] == 2000 and cost["gpu_energy_joules"] == 0
