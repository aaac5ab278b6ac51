import functools
import os
import signal
import threading
import time

import pytest

from attncontrol.batch.ray_engine import ray_execute
from tests.batch.stand_in import StandIn, run_with
from tests.batch.test_run import assert_complete

pytest.importorskip("ray", reason="needs the extra 'cluster'")


def test_two_workers_that_are_killed_one_after_the_other(tmp_path):
    prompts, log = tmp_path / "prompts.txt", tmp_path / "log"
    prompts.write_text("".join(f"prompt {i}\n" for i in range(60)))
    log.touch()
    killed = []

    def processes():
        return list(dict.fromkeys(line.split()[1] for line in log.read_text().splitlines()))

    def kill_both():
        deadline = time.monotonic() + 240
        while len(processes()) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        for process in processes()[:2]:
            os.kill(int(process), signal.SIGKILL)
            killed.append(process)
            time.sleep(1)

    killer = threading.Thread(target=kill_both)
    killer.start()
    execute = ray_execute(functools.partial(StandIn, 0.5, log), workers=2)
    counts = run_with(execute, [prompts], tmp_path / "out", batch_size=2)
    killer.join()
    assert len(killed) == 2 and set(processes()) > set(killed), "others started in their place"
    assert counts.made == 60 and not counts.failures
    assert_complete(prompts, tmp_path / "out")
    again = run_with(execute, [prompts], tmp_path / "out")
    assert (again.found, again.made) == (60, 0)


def test_an_address_where_no_ray_is(tmp_path):
    (tmp_path / "p.txt").write_text("a\n")
    with pytest.raises(ValueError, match="cannot start or reach Ray"):
        run_with(ray_execute(StandIn, address="127.0.0.1:1"), [tmp_path / "p.txt"], tmp_path / "out")
