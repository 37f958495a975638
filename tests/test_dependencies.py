"""Licences of what is installed: the rules by hand-made metadata, and the environment itself."""

from email.message import Message

import pytest
from typer.testing import CliRunner

from facefoundry.cli import build_app
from facefoundry.dependencies import KNOWN, Dependency, dependencies, licence_of


def metadata(**fields: str) -> Message:
    message = Message()
    for name, value in fields.items():
        message[name.replace("_", "-")] = value
    return message


def test_the_expression_wins_then_classifiers_then_the_first_line():
    classifier = "License :: OSI Approved :: MIT License"
    both = metadata(License_Expression="BSD-3-Clause", Classifier=classifier)
    assert licence_of("x", both) == "BSD-3-Clause"
    assert licence_of("x", metadata(Classifier=classifier, License="other")) == "MIT License"
    assert licence_of("x", metadata(License="Apache 2.0\nand a long text")) == "Apache 2.0"
    assert licence_of("x", metadata()) == ""


@pytest.mark.parametrize(
    ("licence", "accepted"),
    [
        ("MIT", True),
        ("EPL-2.0 OR GPL-2.0-or-later", True),
        ("LGPL-2.1-or-later", True),
        ("GNU Lesser General Public License v3 (LGPLv3)", True),
        ("AGPL-3.0-only", False),
        ("GNU General Public License v3 (GPLv3)", False),
        ("GPL-2.0-only", False),
        ("", False),
    ],
)
def test_strong_copyleft_and_the_unknown_are_refused(licence: str, accepted: bool):
    assert Dependency("x", "1", licence).accepted is accepted


def test_everything_installed_is_accepted_and_every_exception_is_needed():
    found = dependencies()
    names = {entry.name for entry in found}
    assert {"torch", "dvc", "hydra-core", "mlflow", "numpy", "sympy"} <= names  # also indirect ones
    assert "pytest" not in names
    assert [entry for entry in found if not entry.accepted] == []
    assert set(KNOWN) <= names


def test_the_command_lists_them_all():
    done = CliRunner().invoke(build_app(), ["licences"])
    assert done.exit_code == 0
    assert len(done.output.splitlines()) == len(dependencies())
