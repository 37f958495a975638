"""The search: what it draws, prunes and prints, and what a kill in the middle leaves of it."""

import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
import yaml
from conftest import environment_in, run_in
from optuna.trial import TrialState
from test_configs import composed
from toy_faces import write_faces

from facefoundry import tuning
from facefoundry.errors import DivergedError, FoundryError
from facefoundry.params import load_params
from facefoundry.tuning import as_knobs, as_overrides, read_search, run_study, suggest, summary

FIXED = ["steps=32", "validate_every=4", "batch_size=8", "embedding_size=16", "precision=32-true"]
FIXED += ["teacher=none"]


@pytest.fixture
def search(project: Path):
    return read_search(study="toy", storage="sqlite:///toy.db", trials=12, startup=4)


def test_a_range_is_drawn_where_its_choices_were(search):
    study = optuna.create_study()
    drawn = [suggest(study.ask(), search.space) for _ in range(40)]
    assert {values["loss"] for values in drawn} == set(search.space["loss"])
    for values in drawn:
        assert ("loss.margin_cos" in values) == (values["loss"] == "cosface")
        assert ("loss.margin_rad" in values) == (values["loss"] != "cosface")
        assert 3e-4 <= values["optimizer.lr"] <= 1e-2
        assert values["batch_size"] in (64, 128, 256)


def test_every_drawn_trial_composes(search):
    study = optuna.create_study()
    for _ in range(10):
        values = suggest(study.ask(), search.space)
        cfg = composed("train", *as_overrides(values))
        assert cfg.optimizer.lr == values["optimizer.lr"]
        assert cfg.loss.loss == values["loss"]


def test_the_best_trial_is_printed_as_lines_of_params(search):
    values = {"loss": "cosface", "loss.margin_cos": 0.2, "optimizer.lr": 1e-05, "batch_size": 128}
    knobs, rest = as_knobs(values | {"augmentation": "strong"})
    drawn = {"loss": "cosface", "lr": 1e-05, "batch_size": 128, "augmentation": "strong"}
    assert knobs == {"train": drawn}
    assert rest == {"loss.margin_cos": 0.2}
    assert knobs["train"].keys() <= load_params()["train"].keys()


def test_a_study_finds_the_optimum_goes_on_and_draws_nothing_twice(search):
    def distance(trial, search, fixed):
        values = suggest(trial, search.space)
        if values["optimizer.lr"] > 8e-3:
            raise optuna.TrialPruned
        return abs(values["optimizer.lr"] - 2e-3)

    half = read_search(study="toy", storage=search.storage, trials=6, startup=4)
    assert len(run_study(half, run=distance).trials) == 6
    study = run_study(search, run=distance)
    assert len(study.trials) == 12
    assert len({trial.params["optimizer.lr"] for trial in study.trials}) == 12
    text = summary(study, search, ["steps=600"])
    lines = yaml.safe_load(text.split("# params.yaml")[1].split("# conf/")[0])
    assert lines["train"]["lr"] == study.best_trial.params["optimizer.lr"]
    assert text.splitlines()[-1].startswith("python -m stages.train steps=600 ")
    assert len(run_study(search, run=distance).trials) == 12


def test_a_study_of_another_space_or_without_an_ended_trial_is_one_line(search):
    def pruned(trial, search, fixed):
        suggest(trial, search.space)
        raise optuna.TrialPruned

    study = run_study(read_search(study="toy", storage=search.storage, trials=1), run=pruned)
    with pytest.raises(FoundryError, match="'toy': no trial has ended"):
        summary(study, search, [])
    other = read_search(study="toy", storage=search.storage, space={"loss": ["softmax"]})
    with pytest.raises(FoundryError, match=r"begun with another space .* --study"):
        run_study(other, run=pruned)
    Path("conf/tune.yaml").write_text("speed: 1\n")
    with pytest.raises(FoundryError, match="speed"):
        read_search()


def tuning_project(project: Path) -> list[str]:
    """Toy faces, a space in which some learning rates learn nothing, and the command."""
    write_faces(project)
    content = yaml.safe_load(Path("conf/tune.yaml").read_text())
    content |= {"study": "toy", "trials": 6, "objective": "loss", "startup": 2, "heartbeat": 1}
    content["space"] = {"optimizer.lr": [1e-2, 3e-3, 1e-8, 3e-8, 1e-9]}
    Path("conf/tune.yaml").write_text(yaml.safe_dump(content))
    return [sys.executable, "-m", "facefoundry", "tune", *FIXED]


def kill_in_the_second_trial(project: Path, command: list[str], log: Path) -> None:
    with log.open("w") as stderr:
        process = subprocess.Popen(command, stderr=stderr, env=environment_in(project))
    for _ in range(6000):
        time.sleep(0.01)
        if re.search(r"1/6 trials.*\n(?s:.*)step 8 ", log.read_text()):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()


def test_a_search_killed_in_the_middle_goes_on_without_repeating(project, empty_mlflow):
    shutil.copy(empty_mlflow, project)
    command = tuning_project(project)
    kill_in_the_second_trial(project, command, project / "first.log")
    done = run_in(project, *command)
    study = optuna.load_study(study_name="toy", storage="sqlite:///tune.db")
    states = [trial.state for trial in study.trials]
    ended = [t for t in study.trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    assert len(ended) == 6
    assert states.count(TrialState.FAIL) == 1
    assert TrialState.PRUNED in states
    killed = study.trials[states.index(TrialState.FAIL)]
    again = next(t for t in ended if t.system_attrs.get("failed_trial") == killed.number)
    assert again.params == killed.params
    # each set of values began once: the killed one went on from its checkpoint
    log = (project / "first.log").read_text() + done.stderr
    drawn = {t.params["optimizer.lr"] for t in ended}
    assert log.count(": step 4 ") == len(drawn)
    assert f"lr: {study.best_trial.params['optimizer.lr']}" in done.stdout
    with sqlite3.connect("mlflow.db") as connection:
        query = "select value from tags where key = 'facefoundry.pipeline'"
        assert connection.execute(query).fetchall() == [("sweep toy",)]
        # values that are drawn again are not trained again, so they have no run of their own
        query = "select count(distinct run_uuid) from metrics where key = 'loss'"
        assert connection.execute(query).fetchone()[0] >= len(drawn)


def test_a_diverged_trial_is_pruned_and_the_search_goes_on(search, monkeypatch, capsys):
    def train(options, faces, out, log):
        if options["batch_size"] > 64:
            raise DivergedError("the loss is nan at step 3")
        return {"val_eer": 0.2}

    def in_this_process(name, function, overrides, sweep, label):
        return function(composed(name, *overrides), Path("out"))

    monkeypatch.setattr(tuning, "train_recognizer", train)
    monkeypatch.setattr(tuning, "run_trial", in_this_process)
    monkeypatch.setattr(tuning, "plain", lambda cfg: {"batch_size": cfg.batch_size})
    study = run_study(search)
    pruned = [trial.params["batch_size"] > 64 for trial in study.trials]
    assert [trial.state == TrialState.PRUNED for trial in study.trials] == pruned
    assert {True, False} == set(pruned)
    assert capsys.readouterr().err.count("pruned: the loss is nan at step 3") == sum(pruned)
