"""docs/sources.md: every generator is on it, and every command on it is one."""

import re
import shlex

import pytest
import typer
import yaml
from conftest import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from facefoundry.cli import build_app
from facefoundry.params import check_choices, knob
from facefoundry.synthesis import GENERATORS

PAGE = (ROOT / "docs/sources.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    for line in block.split("\n")
]


@pytest.mark.parametrize("command", filter(None, COMMANDS))
def test_a_command_of_the_page_is_taken(project, command: str):
    words = shlex.split(command)
    if words[0] == "facefoundry":
        app = typer.main.get_command(build_app())
        app.commands[words[1]].make_context(words[1], words[2:])
    elif words[0] == "pip":
        (extra,) = re.findall(r"\[(.*)\]", words[-1])
        assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text()
    else:
        assert words[:3] == ["python", "-m", "stages.synthesize"]
        check_choices(words[3:])
        OmegaConf.register_new_resolver("params", knob, replace=True)
        with initialize_config_dir(str(project / "conf"), version_base="1.3"):
            cfg = compose("synthesize", overrides=words[3:])  # refuses keys that conf/ has not
        assert OmegaConf.to_container(cfg.generator, resolve=True)["name"] in GENERATORS


def test_every_generator_that_conf_knows_is_in_the_table():
    named = set(re.findall(r"^\| `(\w+)`", PAGE, re.MULTILINE))
    for path in (ROOT / "conf/generator").glob("*.yaml"):
        assert yaml.safe_load(path.read_text())["name"] in named, path.stem
