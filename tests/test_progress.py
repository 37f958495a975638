"""What a long command tells: people by lines, machines by a log."""

import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from facefoundry import progress
from facefoundry.journal import VARIABLE, record
from facefoundry.progress import Tally, track
from facefoundry.sharding import count_images


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """Seconds that pass with each item; the clock stands still but for `clock[0] += ...`."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def told(clock: list[float], capsys, seconds: float, count: int, tally: Tally | None) -> list[str]:
    for _ in track(range(count), "work", unit="shards", tally=tally):
        clock[0] += seconds
        if tally:
            tally.images += 10
            tally.rejected["no face found"] += 1
    return capsys.readouterr().err.splitlines()


def test_each_count_is_told_once(clock, capsys):
    lines = told(clock, capsys, seconds=10, count=4, tally=None)
    assert lines == [
        "work: 2/4 (0.1 shards/s, 20 s left)",
        "work: 4/4 (0.1 shards/s, 0 s left)",
    ]


def test_the_end_is_told_where_there_was_a_line_before(clock, capsys):
    lines = told(clock, capsys, seconds=10, count=3, tally=None)
    assert [line.split()[1] for line in lines] == ["2/3", "3/3"]
    assert told(clock, capsys, seconds=1, count=3, tally=None) == []


def test_what_went_by_at_once_is_soon_no_part_of_the_remaining_time(clock, capsys):
    for item in track(range(200), "work"):
        clock[0] += 0 if item < 100 else 15
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "work: 101/200 (6.7 it/s, 15 s left)"
    assert lines[4] == "work: 105/200 (0.1 it/s, 1425 s left)"


def test_images_and_rejects_by_reason_are_told(clock, capsys):
    *_, last = told(clock, capsys, seconds=20, count=2, tally=Tally())
    assert last.endswith("; 20 images, 0.5 images/s; rejected: no face found 2")


def test_what_a_killed_run_had_made_is_no_part_of_the_rate(tmp_path: Path):
    tables = [tmp_path / "before.parquet", tmp_path / "now.parquet"]
    for path in tables:
        pq.write_table(pa.table({"image_id": ["a", "b", "c"]}), path)
    tally = Tally()
    os.utime(tables[0], (tally.begun - 60, tally.begun - 60))
    os.utime(tables[1], (tally.begun + 1, tally.begun + 1))
    for path in tables:
        count_images(tally, path)
    assert tally.text(2) == "3 images, 1.5 images/s, 3 kept from before"


def test_the_log_is_one_json_object_a_line(tmp_path: Path, monkeypatch, capsys):
    log = tmp_path / "logs/run.jsonl"
    monkeypatch.setenv(VARIABLE, str(log))
    record("begun", path=Path("a/b"), step=3)
    record("done")
    first, second = map(json.loads, log.read_text().splitlines())
    assert (first["event"], first["path"], first["step"]) == ("begun", "a/b", 3)
    assert first["time"] <= second["time"]
    monkeypatch.setenv(VARIABLE, "-")
    record("here")
    assert json.loads(capsys.readouterr().err)["event"] == "here"


def test_without_the_variable_and_without_room_nothing_is_written(tmp_path: Path, monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    record("unheard")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file/below"))  # not a folder: no place to write
    record("unheard")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
