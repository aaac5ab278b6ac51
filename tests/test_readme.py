"""The README tells the truth: its methods are those there are, and its commands and code are accepted."""

import ast
import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

import attncontrol
from attncontrol import method_classes
from attncontrol.cli import app
from tests.stock import support_matrix

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    """Every `attncontrol ...` of the shell blocks."""
    joined = "\n".join(blocks("bash")).replace("\\\n", " ")
    return [part for line in joined.splitlines() for part in line.split(" && ") if part.startswith("attncontrol ")]


def test_the_table_of_methods_is_that_of_the_registry():
    rows = [
        f"| `{name}` | {cls.summary}{' Needs a layout.' if cls.needs_layout else ''} | {cls.paper} |"
        for name, cls in method_classes().items()
    ]
    table = README.split("<!-- methods -->")[1].split("\n\n")[0]
    assert table.strip().splitlines()[2:] == rows


def test_the_support_matrix_is_what_is_tested():
    assert README.split("<!-- support -->")[1].split("\n\n")[0].strip() == support_matrix()


@pytest.mark.parametrize("command", commands())
def test_the_options_of_every_command_exist(command):
    words = shlex.split(command)[1:]
    help_text = CliRunner().invoke(app, [words[0], "--help"]).output
    for option in (word for word in words if word.startswith("--")):
        assert re.search(rf"{option}\b", help_text), f"attncontrol {words[0]} has no {option}"


def test_the_names_in_the_python_examples_exist():
    for block in blocks("python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and node.module == "attncontrol":
                for name in node.names:
                    assert hasattr(attncontrol, name.name)


def test_every_file_the_readme_links_to_is_there():
    links = re.findall(r"\]\(((?!https?://)[^)#]+)\)", README)
    assert all((ROOT / link).exists() for link in links)
