"""What a training can be asked for beyond its default, each against what it should amount to."""

import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import run_in
from test_configs import composed
from torch import nn
from toy_faces import CONF, OPTIONS, toy_data
from typer.testing import CliRunner

from facefoundry.backbones import build_backbone
from facefoundry.cli import build_app
from facefoundry.errors import FoundryError
from facefoundry.losses import build_head
from facefoundry.model_dir import ModelSpec, load_model, save_model
from facefoundry.optim import build_schedule, moving_average
from facefoundry.params import check_choices
from facefoundry.recognizer import RecognizerModule, initialise
from facefoundry.training import fit

NARROW = {"widths": [8, 8, 8], "head": 16, "embedding_size": 16}


@pytest.fixture(scope="module")
def data():
    return toy_data()


def without_batch_statistics() -> nn.Module:
    """A net that treats each image alone, so that how a batch is cut can change nothing."""
    return nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(), nn.Linear(4 * 14 * 14, 16))


def recognizer(data, backbone=None, loss="arcface", module=RecognizerModule, **options):
    torch.manual_seed(0)
    return module(
        without_batch_statistics() if backbone is None else backbone,
        build_head(loss, identities=4, embedding_size=16),
        options=OPTIONS | options,
        data=data,
        log_metrics=lambda metrics, step: None,
    )


def test_the_step_schedule_falls_at_its_milestones():
    factor = build_schedule(OPTIONS | {"schedule": "step", "steps": 100})
    assert [factor(step) for step in (9, 49, 50, 74, 75, 99)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01, 0.01]
    )
    assert factor(4) == pytest.approx(0.5)  # the warm-up is the same
    with pytest.raises(FoundryError, match="schedule: 'line' is not one of cosine, step"):
        build_schedule(OPTIONS | {"schedule": "line"})


def test_the_moving_average_follows_weights_and_statistics():
    module = nn.BatchNorm1d(1)
    averaged = moving_average(module, decay=0.25)
    values = (8.0, 4.0, 2.0)
    for value in values:
        with torch.no_grad():
            module.weight.fill_(value)
            module.running_mean.fill_(-value)
        averaged.update_parameters(module)
    # the first is copied; then (1 + 1) / (10 + 1) < 0.25 keeps, then 0.25
    second = 4 + 2 / 11 * (8 - 4)
    expected = 2 + 0.25 * (second - 2)
    assert averaged.module.weight.item() == pytest.approx(expected)
    assert averaged.module.running_mean.item() == pytest.approx(-expected)
    assert not averaged.module.weight.requires_grad


class Killed(RecognizerModule):
    def on_train_batch_start(self, batch, index):
        super().on_train_batch_start(batch, index)
        if self.global_step == 10:
            raise KeyboardInterrupt


def test_a_killed_training_with_a_moving_average_ends_in_the_same_weights(data, tmp_path: Path):
    options = {"ema": 0.9, "sampling": "balanced", "schedule": "step"}
    optimizer = {"name": "sgd", "lr": 0.05, "weight_decay": 5e-4, "momentum": 0.9}

    def build(module=RecognizerModule):
        torch.manual_seed(0)
        backbone = build_backbone("small_resnet", **NARROW)
        return recognizer(data, backbone, module=module, optimizer=optimizer, **options)

    whole = build()
    curves = fit(whole, tmp_path / "whole")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit(build(Killed), tmp_path / "killed")
    resumed = build()
    assert fit(resumed, tmp_path / "killed") == curves
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name
    assert whole.trained is not whole.backbone
    assert not torch.equal(
        whole.trained.state_dict()["stem.1.0.weight"],
        whole.backbone.state_dict()["stem.1.0.weight"],
    )


def test_accumulated_parts_take_the_steps_of_the_whole_batch(data, tmp_path: Path):
    found = []
    for parts in (1, 4):
        module = recognizer(data, accumulate=parts)
        found.append((fit(module, tmp_path / str(parts)), module.state_dict()))
    (curves, weights), (cut_curves, cut_weights) = found
    for point, cut in zip(curves, cut_curves, strict=True):
        assert cut == pytest.approx(point, rel=1e-4)
    for name, value in weights.items():
        assert torch.allclose(cut_weights[name], value, atol=1e-5), name


def test_compiled_steps_are_the_same_steps(data, tmp_path: Path):
    found = []
    for compiled in (False, True):
        module = recognizer(data, compile=compiled)
        fit(module, tmp_path / str(compiled))
        found.append(module.state_dict())
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert torch.allclose(found[1][name], value, atol=1e-4), name


def test_self_supervision_uses_no_identity_and_pulls_views_together(data, tmp_path: Path):
    options = {"steps": 48, "validate_every": 16, "loss": "simclr"}
    found = []
    for labels in (data.train.labels, np.zeros_like(data.train.labels)):
        unlabelled = toy_data()
        unlabelled.train.labels = labels
        module = recognizer(unlabelled, **options)
        found.append((fit(module, tmp_path / str(len(found))), module.state_dict()))
    (curves, weights), (_, blind) = found
    assert curves[-1]["loss"] < curves[0]["loss"]
    assert all(torch.equal(weights[name], blind[name]) for name in weights)


def test_a_training_starts_from_a_model_directory(tmp_path: Path):
    given = build_backbone("small_resnet", **NARROW)
    arguments = {"widths": [8, 8, 8], "head": 16}
    chain = [{"name": "w", "kind": "weights", "licence": "MIT", "source": "s"}]
    save_model(tmp_path, given, ModelSpec("small_resnet", 16, arguments, licences=chain))
    backbone = build_backbone("small_resnet", **NARROW)
    licences, start = initialise(backbone, tmp_path)
    assert all(torch.equal(backbone.state_dict()[k], v) for k, v in given.state_dict().items())
    assert licences == load_model(tmp_path)[1].licences
    assert start["model"] == str(tmp_path) and len(start["weights_sha256"]) == 64
    with pytest.raises(FoundryError, match="small_resnet that shares no layer with the backbone"):
        initialise(without_batch_statistics(), tmp_path)


def test_a_loss_that_needs_pairs_refuses_a_sampling_that_gives_none(data):
    with pytest.raises(FoundryError, match="sampling: 'uniform' gives the loss no pairs"):
        recognizer(data, loss="triplet", sampling="uniform")


@pytest.mark.parametrize("loss", ["triplet", "contrastive", "supcon"])
def test_losses_of_pairs_train(data, tmp_path: Path, loss):
    assert len(fit(recognizer(data, loss=loss), tmp_path)) == 3


TWO_PROCESSES = """
import sys
from pathlib import Path
import torch
from test_training_options import TWO, Killed, RecognizerModule, fit, recognizer, toy_data
strategy, ema, cache = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])
options = {"trainer": TWO | {"strategy": strategy}, "ema": ema, "patience": None}
if strategy == "fsdp":  # goes on after a kill
    try:
        fit(recognizer(toy_data(), module=Killed, **options), cache)
    except (KeyboardInterrupt, SystemExit):
        torch.distributed.barrier()
module = recognizer(toy_data(), **options)
found = {"curves": fit(module, cache), "weights": module.weights()}
found["shares"] = {
    name: value.to_local().shape[0] / value.shape[0]
    for name, value in module.named_parameters() if hasattr(value, "to_local")
}
if module.trainer.is_global_zero:
    torch.save(found | {"world": module.trainer.world_size}, cache / "done.pt")
"""
TWO = {"devices": 2, "nodes": 1}


@pytest.mark.parametrize(("strategy", "ema"), [("ddp", 0.9), ("fsdp", 0)])
def test_two_processes_give_the_curve_and_the_weights_of_one(data, tmp_path: Path, strategy, ema):
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    command += ["--standalone", str(script), strategy, str(ema), str(tmp_path / "cache")]
    path = ":".join([str(CONF.parent / "src"), str(CONF.parent / "tests")])
    run_in(CONF.parent, *command, PYTHONPATH=path)
    found = torch.load(tmp_path / "cache/done.pt")
    alone = recognizer(data, ema=ema, patience=None)
    for point, shared in zip(fit(alone, tmp_path / "alone"), found["curves"], strict=True):
        assert shared == pytest.approx(point, rel=1e-4)
    assert found["world"] == 2
    for name, value in alone.state_dict().items():
        assert torch.allclose(found["weights"][name], value, atol=1e-5), name
    weights = [f"backbone.{layer}.{part}" for layer in (0, 2) for part in ("weight", "bias")]
    sharded = [*weights, "head.centres"] if strategy == "fsdp" else []
    assert found["shares"] == dict.fromkeys(sharded, 0.5)


MUON = OPTIONS["optimizer"] | {"name": "muon"}


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("ema", {"ema": 0.9}),
        ("compile", {"compile": True}),
        ("optimizer.name=muon", {"optimizer": MUON}),
    ],
)
def test_shards_refuse_what_they_cannot_do(data, tmp_path: Path, name, option):
    module = recognizer(data, trainer=TWO | {"strategy": "fsdp"}, **option)
    with pytest.raises(FoundryError, match=f"^{re.escape(name)}: cannot be had with trainer"):
        fit(module, tmp_path)


def commands_of_the_page() -> list[str]:
    page = (CONF.parent / "docs/training.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.mark.parametrize("command", commands_of_the_page())
def test_commands_of_the_page_are_taken(project, command):
    if "submitit" in command:
        pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="extra `slurm`")
    if command.startswith("facefoundry "):
        done = CliRunner().invoke(build_app(), [*command.split()[1:], "--help"])
        assert done.exit_code == 0
        return
    stage, *arguments = command.split("-m stages.")[1].replace(" -m ", " ").split()
    check_choices(arguments)
    first = [re.sub(r",[^=]*$", "", argument) for argument in arguments]  # of a sweep
    composed(stage, *first)  # refuses keys that conf/ does not have


def test_the_page_names_every_loss_and_the_sampling_it_gets():
    page = (CONF.parent / "docs/training.md").read_text()
    for path in (CONF / "loss").glob("*.yaml"):
        (row,) = [line for line in page.splitlines() if re.match(rf"\|.*`{path.stem}`", line)]
        head = build_head(**yaml.safe_load(path.read_text()), identities=3, embedding_size=8)
        assert f"`{head.sampling}`" in row or (head.sampling is None and "any;" in row)


FAULTS = """
import resource, sys
from facefoundry.heap import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
for turn in range(12):
    bytearray(b"x") * 64_000_000
    if turn == 1:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries decide themselves")
def test_a_training_is_not_given_the_same_memory_page_by_page_in_every_step():
    faults = {}
    for way in ("given back", "kept"):
        command = [sys.executable, "-c", FAULTS, way]
        faults[way] = int(subprocess.run(command, capture_output=True, check=True).stdout)
    assert faults["given back"] > 300  # ten blocks, in pages of 2 MB at the largest
    assert faults["kept"] < faults["given back"] / 10
