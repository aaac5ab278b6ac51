"""Kills of a real run on the bundled model: minutes, so marked slow."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from attncontrol.batch import OutputFolder, Plan
from attncontrol.models import default_guidance_scale, resolve, tuned_settings
from tests.batch.stand_in import wait_until

KILLS = 3
ROWS = 24
BATCH = 3
MOST = 2  # batches that one process makes before it waits to be killed: 18 images at most in 3 runs
BOUNDED = f"""
from attncontrol.batch import Worker
from attncontrol.cli import main
from tests.batch.stand_in import wait_to_be_killed

make, left = Worker.make, iter(range({MOST}))


def bounded(worker, jobs):
    if next(left, None) is None:
        wait_to_be_killed()
    return make(worker, jobs)


Worker.make = bounded
main()
"""


@pytest.mark.slow
def test_kills_of_a_run_on_the_bundled_model(tmp_path):
    prompts, output, moment = tmp_path / "p.txt", tmp_path / "out", random.Random(0)
    prompts.write_text("".join(f"--prompt 'a cat and a frog' --seed {seed}\n" for seed in range(ROWS)))
    options = f"--output {output} --model emoji --control syngen --steps 10 --batch-size {BATCH} --device cpu".split()
    command = ["batch", str(prompts), *options]
    kept: dict[str, int] = {}
    for _ in range(KILLS):
        before = len(list(output.glob("images/*.json")))
        process = subprocess.Popen([sys.executable, "-c", BOUNDED, *command], stdout=subprocess.DEVNULL)
        wait_until(lambda: len(list(output.glob("images/*.json"))) > before, process)  # noqa: B023
        time.sleep(moment.uniform(0, 1))
        process.kill()
        assert process.wait() == -signal.SIGKILL
        for sidecar in output.glob("images/*.json"):
            inode = sidecar.with_suffix(".png").stat().st_ino
            assert kept.setdefault(sidecar.stem, inode) == inode, "a finished image was made again"
    assert KILLS <= len(kept) <= KILLS * MOST * BATCH
    subprocess.run([sys.executable, "-m", "attncontrol", *command], check=True, stdout=subprocess.DEVNULL)

    run = json.loads((output / "run.json").read_text())
    assert (run["found"], run["made"], run["failed"]) == (len(kept), ROWS - len(kept), 0)
    defaults = {"control": "syngen", "steps": 10, "guidance_scale": default_guidance_scale("emoji")}
    jobs = list(Plan([prompts], defaults, tuned=tuned_settings(resolve("emoji"))).jobs())
    folder = OutputFolder(output)
    assert all(folder.has(job, job.key(run["model_sha256"])) for job in jobs)
    assert sorted(os.listdir(folder.images)) == sorted(f"{j.name}.{kind}" for j in jobs for kind in ("png", "json"))
    for path in folder.images.glob("*.png"):
        with Image.open(path) as image:
            image.load()
    assert len((output / "metadata.jsonl").read_text().splitlines()) == ROWS
    assert all((folder.images / f"{name}.png").stat().st_ino == inode for name, inode in kept.items())
