"""How commands end: verdicts, a line when they are interrupted, and quietly without a reader."""

import os
import subprocess
import sys

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from attncontrol.cli import app
from attncontrol.cli.errors import CommandGroup
from attncontrol.models import BUNDLED


@pytest.mark.parametrize("model", BUNDLED)
def test_compare_prints_what_the_oracle_sees_in_every_image(model, tmp_path):
    arguments = ["compare", "a cat and a red frog", "--controls", "syngen", "--seeds", "0", "--steps", "2"]
    result = CliRunner().invoke(app, [*arguments, "--model", model, "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.split("  ")[:2] for line in lines[:2]] == [["seed 0", "plain"], ["seed 0", "syngen"]]
    assert all("cat: " in line and "red frog: " in line for line in lines[:2])
    Image.open(tmp_path / "a-cat-and-a-red-frog_compare.png").verify()


def test_compare_tells_controls_of_the_same_methods_apart(tmp_path):
    arguments = ["compare", "a cat and a red frog", "--controls", "syngen,1.0*syngen", "--seeds", "0"]
    result = CliRunner().invoke(app, [*arguments, "--model", "emoji", "--steps", "2", "--output", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert [line.split("  ")[1] for line in result.stdout.splitlines()[:3]] == ["plain", "syngen", "1.0*syngen"]


@pytest.mark.parametrize(
    ("command", "hint"),
    [("batch", "run the same command again to go on"), ("generate", "the files listed above are complete")],
)
def test_an_interrupted_command_says_how_to_go_on(command, hint):
    program = typer.Typer(cls=CommandGroup, pretty_exceptions_enable=False)

    def stop() -> None:
        raise KeyboardInterrupt

    program.command("batch")(stop)
    program.command("generate")(stop)
    result = CliRunner().invoke(program, [command])
    assert result.exit_code == 130 and result.stderr == f"Error: interrupted: {hint}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["methods"]], ids=lambda arguments: arguments[0])
def test_without_a_reader_of_its_output_a_command_ends_quietly(arguments):
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, "-m", "attncontrol", *arguments], stdout=writer, stderr=subprocess.PIPE, text=True
    )
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")
