"""The same seed gives the same bytes, by one worker or by four; trainings: see test_training."""

import pytest
from crashing import Crashes


@pytest.fixture(scope="module")
def crashes(tmp_path_factory) -> Crashes:
    return Crashes(tmp_path_factory.mktemp("determinism"), tmp_path_factory.mktemp("logs"))


@pytest.mark.parametrize("stage", ["synthesize", "curate", "align"])
def test_one_worker_and_four_leave_the_same_files(crashes: Crashes, stage: str):
    one = crashes.run(stage)
    assert one.exit_status == 0, one.words
    crashes.forget(stage)
    four = crashes.run(stage, "workers=4")
    assert four.exit_status == 0, four.words
    assert four.output == one.output
    assert "manifest.parquet" in four.output


@pytest.mark.parametrize("stage", ["synthesize", "train"])
def test_the_same_seed_again_leaves_the_same_files_and_another_does_not(
    crashes: Crashes, stage: str
):
    crashes.forget(stage)
    first = crashes.run(stage)
    crashes.forget(stage)
    assert crashes.run(stage).output == first.output
    crashes.forget(stage)
    assert crashes.run(stage, "seed=7").output != first.output
