"""The named endpoints through gradio_client, and what the server does not hand out."""

import json
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from typer.testing import CliRunner

from attncontrol.cli import app
from attncontrol.demo import Limits, build_demo
from attncontrol.demo.app import serve
from attncontrol.demo.studio import Studio
from attncontrol.images.recipe import read_recipe
from attncontrol.losses import method_classes


@pytest.fixture(scope="module")
def client(server, tmp_path_factory):
    return Client(server.url, verbose=False, download_files=tmp_path_factory.mktemp("downloads"))


def test_only_the_documented_endpoints_are_public(client):
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert set(named) == {"/methods", "/parse", "/layout", "/generate", "/compare", "/edit", "/edit_picture"}


def test_methods_parse_and_layout(client):
    assert set(client.predict(api_name="/methods")) == set(method_classes())
    parsed = client.predict("a red crown and a blue bow", api_name="/parse")
    assert [parsed["words"][group["noun"]]["text"] for group in parsed["groups"]] == ["crown", "bow"]
    boxes = client.predict("a cat to the left of a dog", api_name="/layout")
    assert boxes["cat"][0][2] < boxes["dog"][0][0]
    assert all(value == round(value, 3) for regions in boxes.values() for box in regions for value in box)


def test_generate_returns_the_png_and_its_recipe(client):
    path, recipe = client.predict(
        prompt="a red crown and a blue bow",
        method="boxdiff",
        settings={"step_size": 9},
        layout={"crown": [0, 0, 0.5, 1], "bow": [[0.5, 0, 1, 1]]},
        seed=4,
        steps=2,
        api_name="/generate",
    )
    assert read_recipe(path).seed == recipe["seed"] == 4
    assert recipe["control"][0]["step_size"] == 9
    assert recipe["layout"] == {"crown": [0, 0, 0.5, 1], "bow": [[0.5, 0, 1, 1]]}


def test_generate_takes_presets_and_sums(client):
    for method, parts in (("auto", ["conform", "redraw"]), ("ebama + 0.5*syngen", ["ebama", "syngen"])):
        _, recipe = client.predict("a cat and a frog", method, steps=2, api_name="/generate")
        assert [part["method"] for part in recipe["control"]] == parts


def test_compare_takes_a_preset(client):
    _, verdicts = client.predict("a cat and a frog", ["auto"], "3", 2, 3.0, api_name="/compare")
    assert len(verdicts) == 1


def test_compare_returns_a_grid_and_verdicts(client):
    _, verdicts = client.predict("a cat and a frog", ["none", "syngen"], "3", 2, 3.0, api_name="/compare")
    assert [(v["method"], v["seed"]) for v in verdicts] == [("plain", 3), ("syngen", 3)]
    assert set(verdicts[0]["right"]) == {"cat", "frog"}


def test_edit_draws_before_and_after(client):
    before, after, told = client.predict("a red car and a cat", "a blue car and a cat", steps=2, api_name="/edit")
    assert told["changes"] == ["red -> blue"] and told["cross"] == 0.8
    assert Path(before).read_bytes() != Path(after).read_bytes()


def test_edit_takes_a_picture(client, tmp_path):
    Image.new("RGB", (80, 60), "red").save(tmp_path / "photo.png")
    photo = handle_file(tmp_path / "photo.png")
    *_, told = client.predict(photo, "a red car", "a blue car", steps=2, api_name="/edit_picture")
    assert told["method"] == "ddim" and "seed" not in told
    with pytest.raises(AppError, match="to: Both prompts say the same"):
        client.predict(photo, "a red car", "a red car", api_name="/edit_picture")
    (tmp_path / "photo.png").write_text("no picture")
    with pytest.raises(AppError, match="picture: This is no PNG, JPEG or WebP picture"):
        client.predict(handle_file(tmp_path / "photo.png"), "a car", "a cat", steps=2, api_name="/edit_picture")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"prompt": " "}, "prompt: The prompt is empty"),
        ({"steps": 5000}, "steps: 5000 is out of range"),
        ({"width": 60}, "width: 60 is not a multiple of 8"),
        ({"seed": 1.5}, "seed: 1.5 is not a whole number"),
        ({"settings": {"step_siz": 1}}, "settings: .*step_size"),
        ({"subjects": ["dog"]}, "subjects: 'dog' is not in the prompt"),
        ({"layout": {"cat": [0, 0, 1]}}, "layout: .*4 finite numbers"),
        ({"layout": {"cat": "/etc/hostname"}}, "layout: 'cat': .*no files"),
        ({"layout": {"phrase": "/etc/hostname"}}, "layout: 'phrase': .*no files"),
        ({"layout": {"objects": [{"phrase": "cat", "mask": "secret.png"}]}}, "layout: 'objects': .*no files"),
        ({"layout": {"cat": [[0, 0, 1, 1]] * 65}}, "layout: .*at most 64 boxes"),
        ({"settings": {"kernel_size": 30001}}, "settings: .*kernel_size must be .*at most 31"),
        ({"settings": "x"}, "settings: Settings are"),
        ({"prompt": "a cat\0"}, "prompt: This has a control character"),
        ({"method": "ebma"}, "method: Unknown method 'ebma', did you mean 'ebama'"),
        ({"method": "boxdiff"}, "layout: This method needs boxes"),
        ({"grounding": "gligen", "layout": {"cat": [0, 0, 1, 1]}}, "grounding: This model has no gates"),
    ],
)
def test_wrong_values_are_named(client, arguments, says):
    with pytest.raises(AppError, match=says):
        client.predict(**{"prompt": "a cat and a frog", "steps": 2, **arguments}, api_name="/generate")


@pytest.mark.slow
def test_the_documented_program_runs(default_server):
    page = (Path(__file__).parents[2] / "docs/demo.md").read_text(encoding="utf-8")
    (program,) = (p for p in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "gradio_client" in p)
    names = {}
    exec(program.replace("http://127.0.0.1:7860", default_server.url), names)
    assert names["recipe"]["layout"] == names["boxes"] and len(names["verdicts"]) == 4
    assert set(names["methods"]) == set(method_classes())


def test_no_file_of_the_server_is_reachable(server):
    for path in ("/etc/hostname", "pyproject.toml", "attncontrol/__init__.py", "../../etc/hostname"):
        for route in ("file=", "gradio_api/file="):
            assert httpx.get(f"{server.url}{route}{path}").status_code in (403, 404)


def test_only_this_computer_reaches_the_page(server):
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url.replace("127.0.0.1", "127.0.0.2"))  # answered too, were it bound to every address


@pytest.mark.slow
def test_the_command_serves_any_model_with_its_limits_behind_a_password(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "tiny")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--model", str(tmp_path / "tiny"), "--port", str(port), "--auth", "ann:secret", "--max-steps", "3"]
    command = [sys.executable, "-m", "attncontrol", "demo", *options]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            url, deadline = f"http://127.0.0.1:{port}/", time.monotonic() + 300
            while not _answers(url):
                assert server.poll() is None, "the command ended"
                assert time.monotonic() < deadline
                time.sleep(0.5)
            assert httpx.get(url + "config").status_code == 401
            client = Client(url, verbose=False, auth=("ann", "secret"))
            with pytest.raises(AppError, match="from 1 to 3"):
                client.predict("a cat and a frog", steps=4, api_name="/generate")
        finally:
            server.kill()


def _answers(url):
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--auth", "ann"], "--auth: it must have the form USER:PASSWORD"),
        (["--auth-file", "/nowhere/users"], "--auth-file: cannot read"),
        (["--max-steps", "0"], "max-steps"),
        (["--max-seconds", "0"], "max-seconds"),
        (["--port", "70000"], "port"),
    ],
)
def test_wrong_options_are_named(options, says):
    result = CliRunner().invoke(app, ["demo", *options])
    assert result.exit_code != 0 and says in result.output + str(result.exception)


def test_a_password_and_a_model_that_the_oracle_does_not_know(pipe, tmp_path):
    limits = Limits(size=64, steps=2, images=1)
    pipe.save_pretrained(tmp_path / "tiny")
    demo = build_demo(Studio(pipe, str(tmp_path / "tiny")), limits)
    try:
        url = serve(demo, limits, auth=[("ann", "secret")], block=False)
        for route in ("config", "gradio_api/info"):
            assert httpx.get(url + route).status_code == 401
        with pytest.raises(ValueError, match="Could not login"):
            Client(url, verbose=False, auth=("ann", "wrong"))
        client = Client(url, verbose=False, auth=("ann", "secret"), download_files=tmp_path)
        _, verdicts = client.predict("a cat and a frog", ["none", "syngen"], "3", 2, 3.0, api_name="/compare")
        assert [v["right"] for v in verdicts] == [{}, {}]
        with pytest.raises(AppError, match="steps: 3 is out of range"):
            client.predict("a cat and a frog", steps=3, api_name="/generate")
    finally:
        demo.close()


def test_a_path_of_the_server_is_no_upload(server):
    """The page's own event for an uploaded file, called with the path of a file that was never uploaded."""
    config = httpx.get(f"{server.url}config").json()
    uploads = {c["id"] for c in config["components"] if c["props"].get("elem_id") == "batch-file"}
    (event,) = (d for d in config["dependencies"] if {i for i, name in d["targets"] if name == "upload"} & uploads)
    stolen = {"path": "/etc/hostname", "meta": {"_type": "gradio.FileData"}}
    data = {"data": [stolen, "syngen", 2], "fn_index": event["id"], "session_hash": "someone"}
    joined = httpx.post(f"{server.url}gradio_api/queue/join", json=data, timeout=60)
    if joined.status_code == 200:
        with httpx.stream("GET", f"{server.url}gradio_api/queue/data?session_hash=someone", timeout=60) as stream:
            told = [json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: ")]
        assert [message["success"] for message in told if message["msg"] == "process_completed"] == [False]
        assert "etc" not in str(told)
