"""params.yaml and conf/: every knob is asked for, every option composes, every slip is named."""

import re
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, copy_project, replace_in, run_in
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from facefoundry.backbones import build_backbone
from facefoundry.devices import device_spec
from facefoundry.errors import FoundryError
from facefoundry.losses import build_head
from facefoundry.params import PARAMS, check_choices, check_params, knob, known_knobs, load_params
from facefoundry.profile import read_profile

STAGES = sorted(path.stem for path in (ROOT / "stages").glob("[a-z]*.py"))
PROFILES = sorted(path.stem for path in (ROOT / "conf/profile").glob("*.yaml"))
GROUPS = [
    (path.parent.name, path.stem)
    for path in sorted((ROOT / "conf").glob("*/*.yaml"))
    if path.parent.name != "profile"  # knobs of params.yaml, not a group of one stage
]


def composed(stage: str, *overrides: str):
    OmegaConf.register_new_resolver("params", knob, replace=True)
    with initialize_config_dir(str(Path("conf").absolute()), version_base="1.3"):
        return compose(stage, overrides=list(overrides), return_hydra_config=True)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_composes_and_resolves(project, stage):
    cfg = composed(stage)
    cfg.hydra.runtime.output_dir = cfg.out
    OmegaConf.to_container(
        OmegaConf.masked_copy(cfg, [k for k in cfg if k != "hydra"]), resolve=True
    )
    assert cfg.hydra.run.dir == cfg.out
    assert cfg.seed == load_params()["seed"]


@pytest.mark.parametrize(("group", "option"), GROUPS)
def test_every_option_of_every_group_composes(project, group, option):
    stages = {"backbone": "train", "loss": "train", "augmentation": "train", "trainer": "train"}
    stages |= {"generator": "synthesize", "device": "tensorrt"}
    cfg = composed(stages[group], f"{group}={option}")
    values = OmegaConf.to_container(cfg[group], resolve=True)
    if option == "timm":
        pytest.importorskip("timm", reason="the extra `timm` is not installed")
    if group == "backbone":
        build_backbone(**values, embedding_size=32)
    elif group == "loss":
        build_head(**values, identities=3, embedding_size=32)
    elif group == "device":
        device_spec(values)
    else:
        assert values


def test_dvc_knows_every_stage_and_every_stage_its_files():
    files = (ROOT / "dvc.yaml", ROOT / "generators/dvc.yaml")
    dag = {k: v for file in files for k, v in yaml.safe_load(file.read_text())["stages"].items()}
    assert sorted(dag) == STAGES
    for name, spec in dag.items():
        assert spec["cmd"] == f"python -m stages.{name}"
        assert f"stages/{name}.py" in spec["deps"]
        assert {f"conf/{name}.yaml": None} in spec["params"]
        for dependency in spec["deps"]:
            if dependency.startswith(("src/", "stages/")):
                assert (ROOT / dependency).exists(), dependency


def test_every_knob_is_asked_for(project):
    for stage in STAGES:
        check_params(stage)
    assert "train.lr" in known_knobs()


@pytest.mark.parametrize(
    ("old", "new", "stage", "message"),
    [
        ("  lr:", "  lrr:", "train", "unknown knob 'train.lrr'; did you mean 'train.lr'"),
        ("seed: 0", "sead: 0", "split", "unknown knob 'sead'; did you mean 'seed'"),
        ("  lr: 4.0e-3\n", "", "train", "missing knob 'train.lr'"),
        (
            "loss: arcface",
            "loss: arkface",
            "train",
            "train.loss is 'arkface', not one of adaface",
        ),
        ("generator: mix", "generator: mixx", "synthesize", "not one of .*import, mix, render"),
        ("seed: 0", "seed: [", "split", "params.yaml: not YAML"),
        ("seed: 0", "- seed", "split", "params.yaml"),
    ],
)
def test_slips_in_params_are_one_line_with_the_key(project, old, new, stage, message):
    text = Path("params.yaml").read_text()
    assert old in text
    Path("params.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(FoundryError, match=message) as caught:
        check_params(stage)
    assert "\n" not in str(caught.value)


def fails_with_one_line(project: Path, *command: str) -> str:
    """The message of a stage that is meant to fail, after checking that it is one clean line."""
    done = run_in(project, "python", "-m", *command, check=False)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith(command[0].split(".")[1])]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_a_misspelt_knob_stops_a_stage_before_it_writes(project):
    replace_in(Path("params.yaml"), generator="stylegun")
    line = fails_with_one_line(project, "stages.synthesize")
    assert re.search("synthesize.generator is 'stylegun', not one of .*import, .*stylegan", line)
    assert not Path("data").exists()


def test_an_empty_import_folder_and_a_corrupt_image_stop_the_stage(project):
    Path("data/import").mkdir(parents=True)
    line = fails_with_one_line(project, "stages.synthesize", "generator=import")
    assert "data/import: no image to import" in line
    Path("data/import/ann").mkdir()
    Path("data/import/ann/1.jpg").write_bytes(b"\xff\xd8 not a photo")
    line = fails_with_one_line(project, "stages.synthesize", "generator=import")
    assert "data/import/ann/1.jpg: not a readable" in line
    assert Path("data/import/ann/1.jpg").exists()
    assert not Path("data/synthesize/manifest.parquet").exists()


def test_an_option_that_is_not_there_is_one_line_with_the_valid_ones(project):
    line = fails_with_one_line(project, "stages.train", "backbone=resnet9000")
    assert "backbone=resnet9000: not one of fine_resnet, iresnet100" in line
    check_choices(
        ["loss=arcface,softmax", "hydra/launcher=joblib", "steps=3", "loss=glob(*)", "-m"]
    )
    with pytest.raises(FoundryError, match="loss=arkface: not one of adaface"):
        check_choices(["-m", "loss=softmax,arkface"])


def test_help_lists_the_config(project):
    done = run_in(project, "python", "-m", "stages.train", "--help")
    assert done.stdout.startswith("train is powered by Hydra")
    assert "optimizer:" in done.stdout
    assert "loss: adaface, arcface" in done.stdout


def leaves(node: dict, prefix: str = "") -> dict:
    """Dotted keys and their values: a list is a value."""
    found = {}
    for key, value in node.items():
        nested = isinstance(value, dict)
        found |= leaves(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return found


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_changes_its_knobs_and_nothing_else(tmp_path: Path, monkeypatch, name: str):
    project = copy_project(tmp_path)
    monkeypatch.chdir(project)
    profile = read_profile(name)
    before = {path: path.read_text() for path in [PARAMS, *Path("conf").rglob("*.yaml")]}
    run_in(project, "python", "-m", "facefoundry.profile", name)
    for path, text in before.items():
        old, new = (leaves(yaml.safe_load(found)) for found in (text, path.read_text()))
        assert new == old | profile.get(path, {})
        assert re.findall("#.*", path.read_text()) == re.findall("#.*", text)
        assert path.read_text().count("\n") == text.count("\n"), "a list stays on its line"
    for stage in ("synthesize", "curate", "train", "distill"):
        check_params(stage)
        composed(stage)
    run_in(project, "dvc", "repro", "--dry", "--single-item", "synthesize")


def test_of_several_profiles_a_later_one_counts(project):
    run_in(project, "python", "-m", "facefoundry.profile", "distilled", "further")
    first, then = read_profile("distilled"), read_profile("further")
    assert first[PARAMS]["distill.steps"] != then[PARAMS]["distill.steps"]
    for path in (PARAMS, Path("conf/distill.yaml")):
        found, expected = leaves(yaml.safe_load(path.read_text())), first[path] | then[path]
        assert {key: found[key] for key in expected} == expected


def test_a_profile_that_is_not_there_or_misspells_a_knob_is_refused(project):
    with pytest.raises(FoundryError, match=r"'quick' is not one of clean, clean-further,"):
        read_profile("quick")
    Path("conf/profile/clean.yaml").write_text("train.stepz: 1\n")
    with pytest.raises(FoundryError, match=r"'train\.stepz'; did you mean 'train\.steps'"):
        read_profile("clean")
    for name in ("conf/curate.yaml:min_image", "conf/generator/mix.yaml:weights.renders"):
        Path("conf/profile/clean.yaml").write_text(f"{name}: 1\n")
        with pytest.raises(FoundryError, match=rf"'{re.escape(name)}': no such knob"):
            read_profile("clean")
