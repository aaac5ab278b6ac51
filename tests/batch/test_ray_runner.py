import contextlib
import functools
import json
import os
import signal
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attncontrol.batch.ray_runner import ray_execute
from attncontrol.cli import app
from tests import tiny
from tests.batch.stand_in import StandIn, run_with
from tests.batch.test_run import assert_complete

pytest.importorskip("ray", reason="needs the extra 'cluster'")


@pytest.fixture(autouse=True)
def workers_at_ordinary_priority(monkeypatch):
    """Ray runs its workers at the lowest one, where on a busy machine they take minutes to import torch."""
    monkeypatch.setenv("RAY_worker_niceness", "0")


class OneDies(StandIn):
    """Work begins when two are there; then one ends itself in the middle, and the others wait for its successor."""

    def __init__(self, folder: Path):
        super().__init__(log=folder / "log")
        self.folder = folder
        (folder / f"started-{os.getpid()}").touch()

    def make(self, jobs):
        while len(list(self.folder.glob("started-*"))) < 2 + (self.folder / "killed").exists():
            time.sleep(0.02)
        outcomes = super().make(jobs)
        if len(self.log.read_text().splitlines()) > 12 and not (self.folder / "killed").exists():
            with contextlib.suppress(FileExistsError):  # the other one was faster
                (self.folder / "killed").touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)
        return outcomes


@pytest.mark.slow
def test_two_workers_of_which_one_is_killed(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"prompt {i}\n" for i in range(40)))
    execute = ray_execute(functools.partial(OneDies, tmp_path), workers=2)
    counts = run_with(execute, [prompts], tmp_path / "out", batch_size=2)
    assert len(list(tmp_path.glob("started-*"))) == 3 and (tmp_path / "killed").exists()
    assert counts.made == 40 and not counts.failed
    assert len((tmp_path / "log").read_text().splitlines()) == 42, "the batch of the killed one was made twice"
    assert_complete(prompts, tmp_path / "out")


@pytest.mark.slow
def test_a_batch_that_kills_its_workers_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("attncontrol.batch.ray_runner.WINDOW", 7)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"prompt {i}\n" for i in range(9)) + "please die\n")
    counts = run_with(ray_execute(StandIn, workers=2), [prompts], tmp_path / "out", batch_size=1)
    assert (counts.made, counts.failed) == (9, 1)
    assert counts.failures[0][0].prompt == "please die" and "workers died" in counts.failures[0][1]


class DiesAtFirst(StandIn):
    """The first worker dies before its first batch."""

    def __init__(self, folder: Path):
        super().__init__()
        with contextlib.suppress(FileExistsError):
            (folder / "killed").touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_worker_that_dies_before_its_first_batch_is_replaced(tmp_path):
    (tmp_path / "p.txt").write_text("a\nb\n")
    counts = run_with(ray_execute(functools.partial(DiesAtFirst, tmp_path)), [tmp_path / "p.txt"], tmp_path / "out")
    assert (tmp_path / "killed").exists() and (counts.made, counts.failed) == (2, 0)


def cannot_load():
    raise ValueError("no checkpoint at 'nowhere'")


@pytest.mark.slow
def test_workers_that_cannot_load_the_model(tmp_path, monkeypatch):
    monkeypatch.setattr("attncontrol.batch.ray_runner.RETRIES", 0)
    (tmp_path / "p.txt").write_text("a\n")
    with pytest.raises(ChildProcessError, match=r"cannot go on: no checkpoint at 'nowhere'$"):
        run_with(ray_execute(cannot_load), [tmp_path / "p.txt"], tmp_path / "out")
    assert json.loads((tmp_path / "out" / "run.json").read_text())["ended"] == "interrupted"


@pytest.mark.slow
def test_limit_and_shard(tmp_path):
    tiny.stable_diffusion().save_pretrained(tmp_path / "model")
    prompts, out = tmp_path / "p.txt", tmp_path / "out"
    prompts.write_text("".join(f"a cat and a {word} dog\n" for word in ("red", "blue", "big", "small", "black")))
    args = ["batch", prompts, "--model", tmp_path / "model", "--steps", "1", "--device", "cpu", "--batch-size", "2"]
    shards = []
    for part in ("1/2", "2/2"):
        options = ["--engine", "ray", "--shard", part, "--limit", "2", "--output", out / part[0]]
        result = CliRunner().invoke(app, [*map(str, args), *map(str, options)])
        assert result.exit_code == 0, result.output
        shards.append({path.name for path in (out / part[0] / "images").glob("*.png")})
    assert [len(shard) for shard in shards] == [2, 2] and not shards[0] & shards[1]
    result = CliRunner().invoke(app, [*map(str, args), "--shard", "1/2", "--limit", "2", "--output", str(out / "1")])
    assert json.loads((out / "1" / "run.json").read_text())["found"] == 2, "the same images as without Ray"


def test_an_address_where_no_ray_is(tmp_path):
    (tmp_path / "p.txt").write_text("a\n")
    with pytest.raises(ValueError, match="cannot start or reach Ray"):
        run_with(ray_execute(StandIn, address="127.0.0.1:1"), [tmp_path / "p.txt"], tmp_path / "out")
