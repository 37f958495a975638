"""kill -9 at random moments of every long stage: nothing partial is seen, next to nothing is done
again, and the output is that of a run that nobody disturbed."""

import pytest
from crashing import OUT, Crashes, trials

KILLS = 3


@pytest.fixture(scope="module")
def crashes(tmp_path_factory) -> Crashes:
    return Crashes(tmp_path_factory.mktemp("crashes"), tmp_path_factory.mktemp("logs"))


@pytest.mark.parametrize("stage", OUT)
def test_a_killed_stage_shows_nothing_partial_and_ends_in_the_same_bytes(crashes, stage: str):
    whole = crashes.run(stage)
    assert whole.exit_status == 0, whole.words
    assert whole.begun > KILLS
    for trial in trials(crashes, stage, whole, KILLS, seed=0):
        assert trial.visible in ({}, whole.output), trial.moment
        assert trial.redone <= 1, trial.moment
        assert trial.final == whole.output, trial.moment
    crashes.run(stage)  # whatever the last kill left; distill needs its teacher
