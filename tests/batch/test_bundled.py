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

KILLS = 3
ROWS = 24


@pytest.mark.slow
def test_kills_of_a_run_on_the_bundled_model(tmp_path):
    prompts, output, moment = tmp_path / "p.txt", tmp_path / "out", random.Random(0)
    prompts.write_text("".join(f"--prompt 'a cat and a frog' --seed {seed}\n" for seed in range(ROWS)))
    options = ["--output", str(output), "--control", "syngen", "--steps", "10", "--batch-size", "3", "--device", "cpu"]
    command = [sys.executable, "-m", "attncontrol", "batch", str(prompts), *options]
    kept: dict[str, int] = {}
    for _ in range(KILLS):
        before = len(list(output.glob("images/*.json")))
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        while process.poll() is None and len(list(output.glob("images/*.json"))) <= before:
            time.sleep(0.01)
        time.sleep(moment.uniform(0, 1))
        assert process.poll() is None, "the run ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.wait()
        for sidecar in output.glob("images/*.json"):
            inode = sidecar.with_suffix(".png").stat().st_ino
            assert kept.setdefault(sidecar.stem, inode) == inode, "a finished image was made again"
    assert KILLS <= len(kept) < ROWS
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

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
