"""The meter reads what is there, and leaves out what is not."""

import os
import time
from pathlib import Path

import pytest

from facefoundry.cost import Meter


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
