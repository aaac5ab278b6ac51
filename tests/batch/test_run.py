import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from attncontrol.batch import FolderBusyError, OutputFolder, Plan, Run
from attncontrol.batch.groups import WAITING_BATCHES, batches
from attncontrol.batch.runner import FAILURES_SHOWN, one_by_one
from attncontrol.images.recipe import read_recipe
from tests.batch.stand_in import FINGERPRINT, PATIENCE, StandIn, pixels, run, wait_until

FORK = multiprocessing.get_context("forkserver")  # a killed run need not import everything again
FORK.set_forkserver_preload(["tests.batch.stand_in"])


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"prompt {i}\n" for i in range(6)))
    return path


def assert_complete(prompts: Path, output: Path):
    """Every job once, every file whole, the metadata complete, nothing left over."""
    jobs = {job.name: job for job in Plan([prompts]).jobs()}
    folder = OutputFolder(output)
    files = sorted(os.listdir(output / "images"))
    assert files == sorted([f"{name}.png" for name in jobs] + [f"{name}.json" for name in jobs])
    assert not list(output.rglob("*.tmp"))
    for name, job in jobs.items():
        assert folder.has(job, job.key(FINGERPRINT))
        with Image.open(output / "images" / f"{name}.png") as image:
            assert image.tobytes() == pixels(job)
        assert read_recipe(output / "images" / f"{name}.png").seed == job.seed
    lines = [json.loads(line) for line in (output / "metadata.jsonl").read_text().splitlines()]
    assert [line["file_name"] for line in lines] == [f"images/{name}.png" for name in sorted(jobs)]
    summary = json.loads((output / "run.json").read_text())
    assert (summary["jobs"], summary["failed"], summary["images_in_folder"]) == (len(jobs), 0, len(jobs))


def test_a_run_and_a_second_one_that_finds_everything(prompts, tmp_path):
    log = tmp_path / "log"
    assert run([prompts], tmp_path / "out", maker=StandIn(log=log)).made == 6
    assert_complete(prompts, tmp_path / "out")
    counts = run([prompts], tmp_path / "out", maker=StandIn(log=log))
    assert (counts.found, counts.made) == (6, 0)
    assert len(log.read_text().splitlines()) == 6
    assert_complete(prompts, tmp_path / "out")


def test_what_is_missing_changed_or_damaged_is_made_again(prompts, tmp_path):
    run([prompts], tmp_path / "out")
    images = tmp_path / "out" / "images"
    paths = sorted(images.glob("*.png"))
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:-20])
    data = bytearray(paths[2].read_bytes())
    data[-30] ^= 1
    paths[2].write_bytes(data)
    paths[3].with_suffix(".json").write_text('{"key": ')
    paths[4].with_suffix(".json").write_text("{}")
    (tmp_path / "out" / "maps").mkdir()
    for folder in (images, tmp_path / "out" / "maps", tmp_path / "out"):
        (folder / ".prompt.png.0123.tmp").write_bytes(b"half")
    prompts.write_text(prompts.read_text() + "--prompt 'prompt 0' --seed 5\n")
    log = tmp_path / "log"
    counts = run([prompts], tmp_path / "out", maker=StandIn(log=log))
    assert (counts.found, counts.made) == (1, 6)
    assert {line.split()[0] for line in log.read_text().splitlines()} >= {path.stem for path in paths[:5]}
    assert_complete(prompts, tmp_path / "out")


def test_other_settings_replace_the_images(prompts, tmp_path):
    run([prompts], tmp_path / "out")
    assert run([prompts], tmp_path / "out", defaults={"steps": 4}).made == 6
    assert run([prompts], tmp_path / "out", defaults={"steps": 4}).made == 0


def test_failures_are_recorded_and_the_run_goes_on(tmp_path):
    prompts = tmp_path / "p.txt"
    prompts.write_text("a\nplease fail\nb\n")
    counts = run([prompts], tmp_path / "out")
    assert counts.made == 2 and [reason for _, reason in counts.failures] == ["told to fail"]
    line = json.loads((tmp_path / "out" / "failures.jsonl").read_text())
    assert line["prompt"] == "please fail" and line["reason"] == "told to fail"
    assert json.loads((tmp_path / "out" / "run.json").read_text())["ended"] == "with failures"
    prompts.write_text("a\nb\n")
    assert run([prompts], tmp_path / "out").found == 2
    assert not (tmp_path / "out" / "failures.jsonl").exists()


def test_reasons_of_failures_outlive_a_kill(tmp_path):
    prompts, file = tmp_path / "p.txt", tmp_path / "out" / "failures.jsonl"
    prompts.write_text("".join(f"please fail {i}\n" for i in range(FAILURES_SHOWN + 5)) + "a\n")
    written = []

    class Watching(StandIn):
        def make(self, jobs):
            written.append(len(file.read_text().splitlines()) if file.exists() else 0)
            return super().make(jobs)

    counts = run([prompts], tmp_path / "out", batch_size=1, maker=Watching())
    assert written == list(range(FAILURES_SHOWN + 6))
    assert (counts.failed, len(counts.failures)) == (FAILURES_SHOWN + 5, FAILURES_SHOWN)


def test_an_interruption_leaves_a_whole_folder(prompts, tmp_path):
    class Interrupted(StandIn):
        def make(self, jobs):
            if jobs[0].prompt == "prompt 3":
                raise KeyboardInterrupt
            return super().make(jobs)

    with pytest.raises(KeyboardInterrupt):
        run([prompts], tmp_path / "out", batch_size=1, maker=Interrupted())
    assert json.loads((tmp_path / "out" / "run.json").read_text())["ended"] == "interrupted"
    assert len((tmp_path / "out" / "metadata.jsonl").read_text().splitlines()) == 3
    assert run([prompts], tmp_path / "out").made == 3
    assert_complete(prompts, tmp_path / "out")


def test_a_second_run_on_the_folder_refuses_or_waits(prompts, tmp_path):
    output = tmp_path / "out"
    options = {"maker": StandIn(most=1), "batch_size": 1}
    first = FORK.Process(target=run, args=([prompts], output), kwargs=options, daemon=True)
    first.start()
    wait_until(lambda: list(output.glob("images/*.json")), first)
    with pytest.raises(FolderBusyError, match="another run"):
        run([prompts], output)
    assert not (output / "metadata.jsonl").exists()
    counts = []
    waiting = Run(Plan([prompts]), OutputFolder(output), FINGERPRINT, one_by_one(StandIn()))
    second = threading.Thread(target=lambda: counts.append(waiting(6, wait=True)), daemon=True)
    second.start()
    second.join(0.5)  # it would make everything in that time if it did not wait
    assert second.is_alive() and len(list(output.glob("images/*.json"))) == 1
    first.kill()
    second.join(PATIENCE)
    assert (counts[0].found, counts[0].made) == (1, 5)
    assert_complete(prompts, output)


def test_a_missing_file_is_left_out(prompts, tmp_path):
    counts = run([prompts, tmp_path / "missing.txt"], tmp_path / "out", skip_invalid=True)
    files = json.loads((tmp_path / "out" / "run.json").read_text())["files"]
    assert counts.made == 6 and [file["sha256"] is None for file in files] == [False, True]


def test_a_folder_that_cannot_be_written(prompts, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ValueError, match="cannot write"):
        run([prompts], tmp_path / "out")


def test_batches_hold_equal_settings_and_little_is_held_back(tmp_path):
    prompts = tmp_path / "p.txt"
    prompts.write_text("".join(f"--prompt x{i} --steps {1 + i % 3}\n" for i in range(100)))
    made = list(batches(Plan([prompts]).jobs(), 8))
    assert sorted(len(batch) for batch in made)[3:] == [8] * 12 and sum(map(len, made)) == 100
    assert all(len({job.sampling.steps for job in batch}) == 1 for batch in made)
    prompts.write_text("".join(f"--prompt x --steps {1 + i % 900}\n" for i in range(900)))
    taken = 0

    def counted():
        nonlocal taken
        for job in Plan([prompts]).jobs():
            taken += 1
            yield job

    next(batches(counted(), 2))
    assert taken == 2 * WAITING_BATCHES


@pytest.mark.slow
def test_twenty_kills_of_a_run_of_two_hundred_jobs(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"prompt {i}\n" for i in range(200)))
    output, moment = tmp_path / "out", random.Random(0)
    kept: dict[str, int] = {}
    for _ in range(20):
        before = len(list(output.glob("images/*.json")))
        maker = StandIn(seconds=0.02, most=3)  # 180 jobs at most in 20 runs, however late the kills
        options = {"maker": maker, "batch_size": 3}
        process = FORK.Process(target=run, args=([prompts], output), kwargs=options, daemon=True)
        process.start()
        wait_until(lambda: len(list(output.glob("images/*.json"))) > before, process)  # noqa: B023
        time.sleep(moment.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        for path in output.glob("images/*.json"):
            inode = path.with_suffix(".png").stat().st_ino
            assert kept.setdefault(path.stem, inode) == inode, "a finished image was made again"
    assert 20 <= len(kept) <= 180
    run([prompts], output)
    assert_complete(prompts, output)
    for name, inode in kept.items():
        assert (output / "images" / f"{name}.png").stat().st_ino == inode


def run_killed_at(change: int, output: Path, *args, **kwargs) -> None:
    """A run that kills itself just before its n-th opening, making, renaming or removing of a file in `output`."""
    left = iter(range(change))

    def count(event: str, arguments: tuple) -> None:
        file = str(arguments[0]) if event in ("open", "os.mkdir", "os.rename", "os.remove") else ""
        if file.startswith(str(output)) and next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    run(*args, **kwargs)


def test_a_kill_before_every_change_of_the_folder(tmp_path):
    prompts, start = tmp_path / "prompts.txt", tmp_path / "start"
    prompts.write_text("prompt 0\n--prompt 'prompt 1' --steps 7\n")
    run([prompts], start)  # the first is done, the second will be made again, the third is new
    prompts.write_text("prompt 0\nprompt 1\nprompt 2\n")
    numbers_done, exitcode = [], None
    while exitcode != 0:
        output = tmp_path / f"out-{len(numbers_done)}"
        shutil.copytree(start, output)
        args = (len(numbers_done), output, [prompts], output)
        process = FORK.Process(target=run_killed_at, args=args, daemon=True)
        process.start()
        process.join(PATIENCE)
        exitcode = process.exitcode
        assert exitcode in (0, -signal.SIGKILL)
        folder = OutputFolder(output)
        done = [job.name for job in Plan([prompts]).jobs() if folder.has(job, job.key(FINGERPRINT))]
        inodes = [(folder.images / f"{name}.png").stat().st_ino for name in done]
        counts = run([prompts], output)
        assert (counts.found, counts.made) == (len(done), 3 - len(done))
        assert inodes == [(folder.images / f"{name}.png").stat().st_ino for name in done]
        assert_complete(prompts, output)
        numbers_done.append(len(done))
    assert numbers_done == sorted(numbers_done) and set(numbers_done) == {1, 2, 3} and len(numbers_done) > 20
