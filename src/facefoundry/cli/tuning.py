"""Search for training options."""

from __future__ import annotations

from typing import Annotated

import typer

Study = Annotated[str | None, typer.Option(help="Name of a new study, or of one to continue.")]
Trials = Annotated[int | None, typer.Option(min=1, help="Trials the study is to have in all.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Overrides of conf/train.yaml for every trial: steps=600")
]


def tune(overrides: Overrides = None, study: Study = None, trials: Trials = None) -> None:
    """Search learning rate, batch, weight decay, loss, margin and augmentation of `train`.

    The space and the defaults stand in conf/tune.yaml. Trials that fall behind are pruned.

    A killed search goes on when it is started again; several at once share the trials.

    Each trial is an MLflow run; the best is printed as the lines to put in params.yaml.
    """
    from facefoundry.tuning import read_search, run_study, summary

    search, fixed = read_search(study=study, trials=trials), overrides or []
    print(summary(run_study(search, fixed), search, fixed))


COMMANDS = [tune]
