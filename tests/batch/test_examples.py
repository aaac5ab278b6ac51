from pathlib import Path

import pytest

from attncontrol.batch import Plan

PROMPTS = Path(__file__).parents[2] / "prompts"
JOBS = {
    "animals.txt": 66, "animals_objects.txt": 144, "objects.txt": 66, "one_object.txt": 34, "tuning.txt": 96,
    "example.txt": 3, "example_a1111.txt": 4, "example.csv": 4, "example_partiprompts.tsv": 2,
    "example_drawbench.csv": 2, "example.jsonl": 7, "example.yaml": 4, "example_geneval.jsonl": 2,
}  # fmt: skip


def test_every_example_is_listed_here():
    assert {path.name for path in PROMPTS.iterdir() if path.suffix != ".md"} == set(JOBS)


@pytest.mark.parametrize("name", JOBS)
def test_an_example_is_valid(name):
    found = []
    plan = Plan([PROMPTS / name])
    assert (plan.check(found.append), found) == (JOBS[name], [])
    assert len({job.name for job in plan.jobs()}) == JOBS[name]
