"""Search of training options by Optuna: pruned, killed and continued, one MLflow run a trial.

A trial is a run of the train stage. Its directory and its checkpoints are named by its values, so
that a killed trial goes on from its last checkpoint and no trial is trained twice. Sampler: TPE
(Bergstra et al., NeurIPS 2011); pruner: the median of the trials before.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from omegaconf import DictConfig, OmegaConf
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState

from facefoundry.errors import DivergedError, FoundryError
from facefoundry.keeping import CACHE
from facefoundry.params import CONF, REFERENCE, chosen_groups, load_params
from facefoundry.recognizer import train_recognizer
from facefoundry.results import pick
from facefoundry.stage import log_metrics, plain, run_trial

SPACE = CONF / "tune.yaml"
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
Values = dict[str, Any]

warnings.filterwarnings("ignore", category=ExperimentalWarning)


@dataclass(frozen=True)
class Search:
    """The values of conf/tune.yaml."""

    study: str
    storage: str
    trials: int
    objective: str
    startup: int
    heartbeat: int
    space: Mapping[str, Any]


def read_search(path: Path = SPACE, **changes: Any) -> Search:
    """`path` with `changes`, None being no change. Raises FoundryError for unknown keys."""
    content = yaml.safe_load(path.read_text())
    try:
        return Search(**content | {k: v for k, v in changes.items() if v is not None})
    except TypeError as error:
        raise FoundryError(f"{path}: {error}") from error


def suggest(trial: optuna.Trial, space: Mapping[str, Any]) -> Values:
    """A value for every key of `space` that stands for the choices made before it."""
    values: Values = {}
    for key, entry in space.items():
        if isinstance(entry, list):
            values[key] = trial.suggest_categorical(key, entry)
        elif all(values.get(k) in choices for k, choices in entry.get("for", {}).items()):
            log = entry.get("log", False)
            values[key] = trial.suggest_float(key, entry["low"], entry["high"], log=log)
    return values


Run = Callable[[optuna.Trial, Search, Sequence[str]], float]


def open_study(search: Search) -> optuna.Study:
    """The study of that name, new or continued. Trials whose process is gone are taken up again."""
    storage = RDBStorage(
        search.storage,
        heartbeat_interval=search.heartbeat,
        heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(
            inherit_intermediate_values=True
        ),
    )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        storage=storage,
        study_name=search.study,
        pruner=optuna.pruners.MedianPruner(search.startup),
        load_if_exists=True,
    )


def run_study(search: Search, fixed: Sequence[str] = (), run: Run | None = None) -> optuna.Study:
    """Run trials until the study has `search.trials` that ended or were pruned.

    fixed: overrides of conf/train.yaml for every trial. run: what a trial does, by default a
    training. Raises FoundryError where the study was begun with another space.
    """
    run = run or run_one
    study = open_study(search)
    seed = int(load_params()["seed"])

    def objective(trial: optuna.Trial) -> float:
        # by number: neither a new start nor a second process draws the same values again
        study.sampler = optuna.samplers.TPESampler(
            n_startup_trials=search.startup, constant_liar=True, seed=1000 * seed + trial.number
        )
        return run(trial, search, fixed)

    while len(study.get_trials(deepcopy=False, states=DONE)) < search.trials:
        try:
            study.optimize(objective, n_trials=1)
        except ValueError as error:
            raise FoundryError(
                f"study '{search.study}' was begun with another space ({error});"
                " give this one another name with --study"
            ) from error
        print(progress(study, search), file=sys.stderr)
    return study


def run_one(trial: optuna.Trial, search: Search, fixed: Sequence[str]) -> float:
    """Train with the values of one trial. Raises TrialPruned where it falls behind or diverges."""
    overrides = [*fixed, *as_overrides(suggest(trial, search.space))]
    digest = hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:12]
    out = Path("multirun/tune", search.study, digest)
    if (out / "metrics.json").is_file():  # the same choices again, or killed before it was told
        return outcome(json.loads((out / "metrics.json").read_text()), search.objective)

    def report(metrics: Mapping[str, float], step: int) -> None:
        log_metrics(metrics, step)
        trial.report(metrics[search.objective], step)
        if trial.should_prune():
            raise optuna.TrialPruned

    def watched(cfg: DictConfig, out: Path) -> Mapping[str, Any]:
        try:
            return train_recognizer(plain(cfg), Path(cfg.faces), out, report)
        except (optuna.TrialPruned, DivergedError) as error:
            print(f"trial {trial.number} pruned: {error}".rstrip(": "), file=sys.stderr)
            return {"pruned": True}

    label = f"trial {trial.number}"
    metrics = run_trial("train", watched, [f"out={out}", *overrides], search.study, label)
    shutil.rmtree(CACHE / out.name, ignore_errors=True)
    return outcome(metrics, search.objective)


def outcome(metrics: Mapping[str, Any], objective: str) -> float:
    """The value of a trial from its metrics. Raises TrialPruned where it was pruned."""
    if metrics.get("pruned"):
        raise optuna.TrialPruned
    return float(metrics[objective])


def as_overrides(values: Values) -> list[str]:
    """Values as arguments of `python -m stages.train`; groups first, for others change them."""
    ordered = sorted(values.items(), key=lambda item: "." in item[0])
    return [f"{key}={value}" for key, value in ordered]


def progress(study: optuna.Study, search: Search) -> str:
    """One line after each trial."""
    last, done = study.trials[-1], study.get_trials(deepcopy=False, states=DONE)
    best = [t.value for t in done if t.state == TrialState.COMPLETE and t.value is not None]
    text = f"{len(done)}/{search.trials} trials, {last.state.name.lower()}: {last.params}"
    return f"{text}, best {search.objective} {min(best):.4g}" if best else text


def best_trial(study: optuna.Study) -> FrozenTrial:
    """The trial to use. Raises FoundryError where every one was pruned."""
    try:
        return study.best_trial
    except ValueError as error:
        raise FoundryError(f"study '{study.study_name}': no trial has ended; run more") from error


def as_knobs(values: Values) -> tuple[dict[str, Any], Values]:
    """(What params.yaml has a knob for, as it is nested there; the rest, to be set in conf/)."""
    groups = dict(chosen_groups("train"))
    config: Any = OmegaConf.to_container(OmegaConf.load(CONF / "train.yaml"), resolve=False)
    knobs, rest = OmegaConf.create(), Values()
    for key, value in values.items():
        asked = REFERENCE.fullmatch(str(pick(config, *key.split("."))))
        knob = groups.get(key) or (asked and asked.group(1))
        if knob:
            OmegaConf.update(knobs, knob, value)
        else:
            rest[key] = value
    return OmegaConf.to_container(knobs), rest  # type: ignore[return-value]


def summary(study: optuna.Study, search: Search, fixed: Sequence[str]) -> str:
    """The best trial as the lines to put in params.yaml and the command that trains it."""
    best = best_trial(study)
    pruned = len(study.get_trials(deepcopy=False, states=(TrialState.PRUNED,)))
    done = len(study.get_trials(deepcopy=False, states=DONE))
    knobs, rest = as_knobs(best.params)
    lines = [
        f"best of {done} trials, {pruned} of them pruned: trial {best.number},"
        f" {search.objective} {best.value:.4g}",
        "\n# params.yaml",
        yaml.safe_dump(knobs, sort_keys=False).rstrip(),
        *(["\n# conf/train.yaml and the groups it names"] if rest else []),
        *as_overrides(rest),
        "\n# this trial",
        " ".join(["python -m stages.train", *fixed, *as_overrides(best.params)]),
    ]
    return "\n".join(lines)
