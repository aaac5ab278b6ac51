"""Many visitors at once at the command's own server: what it answers to whom, what it keeps, and what it logs."""

import json
import random
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from types import SimpleNamespace

import httpx
import psutil
import pytest

from attncontrol.images.recipe import read_recipe
from tests.demo.conftest import PATIENCE
from tests.demo.test_attacks import JSON, UNCLEAN, ask, upload

pytestmark = [pytest.mark.slow, pytest.mark.alone]  # a server of its own, and half a minute of visitors

VISITORS = 20
MARK = "zebrafinch"  # in all that a visitor writes
GROWTH = 100 * 2**20  # bytes


@pytest.fixture
def command(tmp_path):
    """The server that `attncontrol demo` starts: its address, its process, and what it writes to the console."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--model", "emoji", "--port", str(port), "--max-size", "64", "--max-upload", "1", "--max-seconds", "60"]
    log = tmp_path / "log"
    with log.open("wb") as file:
        line = [sys.executable, "-m", "attncontrol", "demo", *options]
        with subprocess.Popen(line, stdout=file, stderr=subprocess.STDOUT) as process:
            try:
                url, deadline = f"http://127.0.0.1:{port}/", time.monotonic() + PATIENCE / 1000
                while not _answers(url):
                    assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                    time.sleep(0.5)
                yield SimpleNamespace(url=url, process=psutil.Process(process.pid), log=log)
            finally:
                process.kill()


def _answers(url):
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


def generate(url, prompt, seed, leave=None, **changes):
    """/generate by raw HTTP: the recipe and the picture's bytes, or the error's text; None if `leave` came first."""
    values = {"method": "none", "settings": {}, "subjects": [], "layout": {}, "seed": seed, "steps": 3}
    values |= {"guidance_scale": 3, "negative_prompt": "", "width": 64, "height": 64, "grounding": "none"}
    data = [prompt, *{**values, **changes}.values()]
    with httpx.Client(base_url=url, timeout=PATIENCE / 1000) as client:
        started = client.post("/gradio_api/call/generate", json={"data": data})
        if started.status_code != 200:
            return started.text
        path = f"/gradio_api/call/generate/{started.json()['event_id']}"
        with client.stream("GET", path) as stream:
            kind, end = "", time.monotonic() + (leave or 10_000)
            for line in stream.iter_lines():
                if leave is not None and time.monotonic() > end:
                    return None
                kind = line.removeprefix("event: ") if line.startswith("event: ") else kind
                if line.startswith("data: ") and kind in ("complete", "error"):
                    break
        if kind == "error":
            return line
        file, recipe = json.loads(line.removeprefix("data: "))
        return recipe, client.get("/gradio_api/file=" + file["path"]).content


class Visitors:
    """Twenty of them, each with prompts and seeds of its own, until the time is up."""

    def __init__(self, url, seconds, folder):
        self.url, self.folder, self.end = url, folder, time.monotonic() + seconds
        self.done, self.faults = Counter(), []

    def run(self):
        threads = [threading.Thread(target=self._visit, args=(number,)) for number in range(VISITORS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _visit(self, number):
        choose = random.Random(number)
        deeds = (self._generate, self._generate, self._leave, self._cancel, self._upload)
        while time.monotonic() < self.end:
            deed = choose.choice(deeds)
            try:
                self.done[deed(number, choose.randrange(10**6))] += 1
            except Exception as error:
                self.faults.append((number, deed.__name__, repr(error)))

    def _generate(self, number, seed):
        answer = generate(self.url, prompt := f"a cat and {number} frogs", seed)
        if isinstance(answer, str):
            if "try again" not in answer and "full" not in answer:
                self.faults.append((number, answer))
            return "told that there is no place"
        recipe, picture = answer
        path = self.folder / f"{number}.png"
        path.write_bytes(picture)
        inside = read_recipe(path)
        if {(recipe["prompt"], recipe["seed"]), (inside.prompt, inside.seed)} != {(prompt, seed)}:
            self.faults.append((number, seed, recipe["prompt"], inside.prompt))
        return "drawn"

    def _leave(self, number, seed):
        generate(self.url, f"a dog for {number}", seed, leave=0.3, steps=100)
        return "left"

    def _cancel(self, number, seed):
        session = f"s{number}-{seed}"
        body = {"data": [f"a bear for {number}"], "session_hash": session, "event_id": "none", "fn_index": 0}
        started = httpx.post(self.url + "gradio_api/call/parse", json=body, timeout=PATIENCE / 1000)
        body["event_id"] = started.json().get("event_id", "none")
        answer = httpx.post(self.url + "gradio_api/cancel", json=body, timeout=PATIENCE / 1000)
        if answer.status_code != 200:
            self.faults.append((number, answer.status_code))
        return "cancelled"

    def _upload(self, number, seed):
        answer = upload(self.url, f"{number}.txt", f"a cat {seed}\n".encode())
        if answer.status not in (200, 429):
            self.faults.append((number, answer.status))
        return f"upload {answer.status}"


def test_twenty_visitors_leave_an_idle_server_and_get_what_is_theirs(command, tmp_path, request):
    assert isinstance(generate(command.url, "a cat", 0), tuple)
    Visitors(command.url, 5, tmp_path).run()  # threads and caches that a busy server has once
    before = idle(command)
    visitors = Visitors(command.url, request.config.getoption("--soak"), tmp_path)
    visitors.run()
    after = idle(command)
    print(dict(visitors.done), "before", before, "after", after)
    assert visitors.faults == []
    assert visitors.done["drawn"] >= VISITORS / 4 and visitors.done["left"] and visitors.done["cancelled"]
    assert after["threads"] <= before["threads"]
    assert after["bytes"] - before["bytes"] < GROWTH


def idle(command):
    """Threads and memory of the server once it does nothing, which it must within a minute."""
    deadline = time.monotonic() + 60
    while command.process.cpu_percent(3.0) > 15:
        assert time.monotonic() < deadline, "the server is still at work"
    assert isinstance(generate(command.url, "a cat", 0), tuple)  # and no job is before this one for ever
    time.sleep(3)
    return {"threads": command.process.num_threads(), "bytes": command.process.memory_info().rss}


def test_no_text_of_a_visitor_is_in_the_log(command):
    url, file = command.url, {"path": f"/{MARK}", "meta": {"_type": "gradio.FileData"}}
    assert isinstance(generate(url, f"a cat and a {MARK} " + "frog " * 90, 0, method="syngen"), tuple)
    for changes in (
        {"method": MARK},
        {"method": "syngen", "settings": {MARK: 1}},
        {"method": "syngen", "settings": {"layers": MARK}},
        {"subjects": [MARK]},
        {"method": "boxdiff", "layout": {MARK: [0, 0, 1, 1]}},
        {"layout": file},
        {"negative_prompt": f"{MARK} " * 100},
        {"seed": MARK},
        {"width": [MARK]},
        {"settings": MARK},
    ):
        generate(url, **{"prompt": f"a {MARK}", "seed": 0, **changes})
    assert upload(url, f"{MARK}.txt", f"a {MARK} \0\n".encode()).status == 200
    for path in (f"/{MARK}", f"/gradio_api/file={MARK}", f"/gradio_api/call/{MARK}", f"/gradio_api/heartbeat{MARK}"):
        ask(url, "GET", path)
    for body in (f'{{"data": "{MARK}"}}', f'{{"data": ["{MARK}"], "fn_index": 999}}', f'"{MARK}', f'["{MARK}"]'):
        for path in ("queue/join", "call/parse", "call/generate", "cancel", "run/predict", "component_server"):
            ask(url, "POST", f"/gradio_api/{path}", body.encode(), JSON)
    ask(url, "GET", "/", headers={"Cookie": MARK, "User-Agent": MARK, "Referer": MARK, "X-Forwarded-For": MARK})
    text = command.log.read_text()
    assert MARK not in text and "a cat" not in text
    assert not any(mark in text for mark in UNCLEAN[:2])
