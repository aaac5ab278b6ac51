"""What is said at once: without torch, and before anything is made."""

import dataclasses
import json
import os
import socket
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import ClassVar

import pytest

from attncontrol.cli import catalog, checks
from attncontrol.losses import method_classes
from attncontrol.losses.combining import control_name, resolve_control
from attncontrol.losses.presets import PRESETS

HEAVY = ["torch", "diffusers", "transformers", "spacy", "gradio", "ray"]
PROGRAM = f"""
import json, sys
from typer.testing import CliRunner
from attncontrol.cli import app
for line in json.load(sys.stdin):
    result = CliRunner().invoke(app, line)
    found = [name for name in {HEAVY} if name in sys.modules]
    print(json.dumps([result.exit_code, result.output, repr(result.exception), found]))
"""


def run_all(lines, folder, **environment) -> list:
    """Exit code, output, exception and heavy modules of every command line, in one process of its own."""
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], input=json.dumps(lines), cwd=folder, capture_output=True, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_help_methods_and_wrong_values_answer_without_torch(tmp_path):
    taken = socket.create_server(("127.0.0.1", 0))
    (tmp_path / "file").touch()
    (tmp_path / "a.safetensors").touch()
    (tmp_path / "empty").mkdir()
    cases = [
        (["--help"], 0, "compare"),
        (["generate", "--help"], 0, "--seed"),
        (["--version"], 0, "attncontrol "),
        (["methods"], 0, "conform + syngen"),
        (["methods", "syngn"], 2, "NAME: unknown method 'syngn', did you mean 'syngen'?"),
        (["genrate", "a cat"], 2, "Did you mean 'generate'?"),
        (["generate", "a cat", "--contrl", "syngen"], 2, "--control"),
        (["generate", "a cat", "--control", "syngn"], 2, "--control: unknown method 'syngn', did you mean 'syngen'?"),
        (["generate", "a cat", "--control", "conform + 0.5*syngn"], 2, "--control: unknown method 'syngn'"),
        (["generate", "a cat", "--control", "boxdiff"], 2, "--layout: boxdiff needs a layout"),
        (["generate", "a cat", "--layout", "nope.json"], 2, "--layout: cannot read the layout file 'nope.json'"),
        (["generate", " "], 2, "PROMPT: it is empty"),
        (["generate", "a cat", "--seed", "-3"], 2, "--seed: '-3' must be a whole number"),
        (["generate", "a cat", "--seed", "rnd"], 2, "or 'random'"),
        (["generate", "a cat", "--set", "step_size"], 2, "--set: 'step_size' must have the form key=value"),
        (
            ["generate", "a cat", "--set", "stepsize=3"],
            2,
            "the control has no setting 'stepsize', did you mean 'step_size'",
        ),
        (["generate", "a cat", "--set", "syngen.stop=1"], 2, "the control has no setting 'syngen.stop'"),
        (["batch", "file", "--output", "out", "--set", "stopp=1"], 2, "--set: the control has no setting 'stopp'"),
        (["generate", "a cat", "--width", "100"], 2, "--width: 100 is not a multiple of 8; the nearest is 96"),
        (["generate", "a cat", "--model", "/nope"], 2, "--model: no diffusers checkpoint at '/nope'"),
        (["generate", "a cat", "--model", "empty"], 2, "it has no model_index.json"),
        (["generate", "a cat", "--output", "file/results"], 2, "--output: "),
        (["compare", "a cat", "--controls", "conform,syngn"], 2, "--controls: unknown method 'syngn'"),
        (["batch", "nope.txt", "--output", "out"], 2, "FILE: cannot read 'nope.txt'"),
        (["batch", "file", "--output", "out", "--control", "syngn"], 2, "--control: unknown method 'syngn'"),
        (["generate", "a \udcff cat"], 2, "argument 2 is not UTF-8 text: 'a \\udcff cat'"),
        (["evaluate", "nope"], 2, "DIR: there is no folder 'nope'"),
        (["report", "nope"], 2, "DIR: there is no folder 'nope'"),
        (["report", "empty"], 2, "run `attncontrol evaluate empty` first"),
        (["generate", "a cat", "--device", "gpu"], 2, "--device: 'gpu' is no device: it is cpu, cuda"),
        (["batch", "file", "--output", "out", "--device", "cuda0"], 2, "--device: 'cuda0' is no device"),
        (["batch", "file", "--output", "out", "--seed", "-1"], 2, "or 'random'"),
        (["batch", "empty", "--output", "out"], 2, "FILE: 'empty' is a folder"),
        (["maps", "a cat", "--device", "gpu"], 2, "--device: 'gpu' is no device"),
        (["invert", "nope.png", "--prompt", "a cat"], 2, "IMAGE: there is no file 'nope.png'"),
        (["invert", "empty", "--prompt", "a cat"], 2, "IMAGE: there is no file 'empty'"),
        (["invert", "file", "--prompt", " "], 2, "--prompt: write what the picture shows"),
        (["invert", "file", "--prompt", "a cat", "--steps", "2000"], 2, "--steps"),
        (["edit", "--prompt", "a cat"], 2, "--to: write what the picture shows, before and after"),
        (["edit", "--to", "a dog"], 2, "--prompt: write what the picture shows, before and after"),
        (["edit", "nope.png", "--prompt", "a cat", "--to", "a dog"], 2, "IMAGE: there is no file 'nope.png'"),
        (
            ["edit", "file", "--prompt", "a cat", "--to", "a dog", "--seed", "3"],
            2,
            "--seed: a picture has its own noise",
        ),
        (
            ["edit", "--prompt", "a cat", "--to", "a dog", "--nouns", "cat"],
            2,
            "--nouns: they are learned of a picture",
        ),
        (
            ["edit", "--prompt", "a cat", "--to", "a dog", "--weight", "dog=x"],
            2,
            "--weight: dog=x: the factor must be",
        ),
        (["edit", "--prompt", "a cat", "--to", "a dog", "--cross", "2"], 2, "--cross"),
        (["edit", "--prompt", "a cat", "--to", "a dog", "--width", "100"], 2, "--width: 100 is not a multiple of 8"),
        (["edit", "--prompt", "a cat", "--to", "a dog", "--device", "gpu"], 2, "--device: 'gpu' is no device"),
        (
            ["edit", "a.safetensors", "--to", "a dog", "--prompt", "a cat"],
            2,
            "--prompt: the inversion 'a.safetensors' has",
        ),
        (["edit", "a.safetensors", "--to", "a dog", "--guidance-scale", "3"], 2, "--guidance-scale: the inversion"),
        (["demo", "--port", str(taken.getsockname()[1])], 2, "--port: cannot listen on 127.0.0.1"),
        (["demo", "--model", "./nope"], 2, "--model: no diffusers checkpoint at './nope'"),
    ]
    with taken:
        results = run_all([line for line, _, _ in cases], tmp_path)
    for (line, code, message), (exit_code, output, exception, heavy) in zip(cases, results, strict=True):
        assert (exit_code, heavy) == (code, []), (line, output, exception)
        assert message in " ".join(output.split()), (line, output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors", "empty", "file"]


def test_the_package_is_imported_without_torch():
    code = "import sys, attncontrol; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_catalog_says_what_the_registry_says():
    classes = method_classes()
    assert list(catalog.methods()) == list(classes)
    for name, cls in classes.items():
        entry = catalog.methods()[name]
        assert (entry.summary, entry.paper, entry.needs_layout) == (cls.summary, cls.paper, cls.needs_layout)
        assert set(entry.settings) == {field.name for field in dataclasses.fields(cls)}
    assert catalog.presets() == {name: control_name(resolve_control(name)) for name in PRESETS}


@pytest.mark.parametrize(
    ("control", "names"),
    [
        ("syngen", ["syngen"]),
        ("a + 0.5*b", ["a", "b"]),
        ("2*auto", ["conform", "syngen"]),
        ("", []),
        ("a +", ["a"]),
    ],
)
def test_the_names_in_a_control(control, names):
    assert catalog.methods_of(control) == names


class Hub(BaseHTTPRequestHandler):
    """A hub with one model, where another name is not to be had and a third one is out of order."""

    asked: ClassVar[list[str]] = []

    def do_HEAD(self):
        self.asked.append(self.path)
        code = {"there": 200, "unknown": 404}.get(self.path.split("/")[1], 503)
        self.send_response(code)
        if code == 404:
            self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("ETag", '"0"')
        self.end_headers()

    def log_message(self, *_):
        pass


def test_the_hub_is_asked_once_for_an_id_that_is_not_in_its_cache(tmp_path):
    """A device that there is not shows that the model passed."""
    cached = tmp_path / "hub" / "models--cached--model"
    for file, text in (("refs/main", "abc"), ("snapshots/abc/model_index.json", "{}")):
        (cached / file).parent.mkdir(parents=True)
        (cached / file).write_text(text)
    answers = {
        "emoji": "--device: 'gpu' is no device",
        "cached/model": "--device: 'gpu' is no device",
        "there/model": "--device: 'gpu' is no device",
        "unknown/model": "--model: no diffusers checkpoint at 'unknown/model': the Hub has none of this name",
        "broken/model": "--model: no diffusers checkpoint at 'broken/model': asking the Hub for it failed: ",
    }
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    environment = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path)}
    lines = [["generate", "a cat", "--device", "gpu", "--model", model] for model in answers]
    results = run_all(lines, tmp_path, HF_HUB_OFFLINE="0", **environment)
    server.shutdown()
    server.server_close()
    for message, (code, output, exception, heavy) in zip(answers.values(), results, strict=True):
        assert (code, heavy) == (2, []) and message in " ".join(output.split()), (output, exception)
    asked = [f"/{name}/model/resolve/main/" for name in ("there", "unknown", "unknown", "broken")]
    files = ["model_index.json", "model_index.json", "modular_model_index.json", "model_index.json"]
    assert Hub.asked == [path + file for path, file in zip(asked, files, strict=True)]


@pytest.mark.parametrize("model", ["/nope", "./nope", "../nope", "~/nope", "a/b/c", "nope", "C:\\nope", "nope/", ""])
def test_what_looks_like_a_path_must_be_there(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="--model: no diffusers checkpoint at"):
        checks.check_model(model)


def test_a_folder_may_be_made_inside_another_but_not_inside_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checks.check_folder(Path("new/deep"))
    checks.check_folder(tmp_path)
    Path("file").touch()
    for folder in ("file", "file/new"):
        with pytest.raises(ValueError, match=r"--output: .* is a file, not a folder"):
            checks.check_folder(Path(folder))


def test_a_folder_that_cannot_be_written_is_refused(monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: False)  # the administrator may write everywhere
    with pytest.raises(ValueError, match="--output: nothing may be written to"):
        checks.check_folder(Path("new"))


def test_the_shell_completes_the_names_of_methods():
    words = {"COMP_WORDS": "attncontrol generate x --control syn", "COMP_CWORD": "4"}
    result = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv = ['attncontrol']; from attncontrol.cli import main; main()"],
        env={**os.environ, **words, "_ATTNCONTROL_COMPLETE": "complete_bash"}, capture_output=True, text=True,
    )  # fmt: skip
    assert result.stdout.split() == ["syngen"], result.stderr
