import itertools
import json
import tracemalloc

import pytest
from PIL import Image

from attncontrol.batch import Plan


def plan(tmp_path, content, name="p.jsonl", **options):
    path = tmp_path / name
    rows = content if isinstance(content, str) else "".join(json.dumps(row) + "\n" for row in content)
    path.write_text(rows, encoding="utf-8")
    return Plan([path], **options)


def check(plan):
    found = []
    return plan.check(found.append), [(problem.line, problem.key) for problem in found]


def test_a_row_overrides_the_defaults(tmp_path):
    rows = [{"prompt": "a", "steps": 5, "control": None}, {"prompt": "b", "seeds": [7, 3]}, {"prompt": "c", "seed": 2}]
    defaults = {"steps": 9, "control": "syngen", "images_per_prompt": 2, "seed": 1}
    jobs = list(plan(tmp_path, rows, defaults=defaults).jobs())
    assert [(job.prompt, job.seed, job.sampling.steps) for job in jobs] == [
        ("a", 1, 5), ("a", 2, 5), ("b", 7, 9), ("b", 3, 9), ("c", 2, 9), ("c", 3, 9),
    ]  # fmt: skip
    assert jobs[0].control is None
    assert jobs[2].control[0]["method"] == "syngen" and jobs[2].control[0]["step_size"] > 0
    with pytest.raises(ValueError, match="--steps: must be greater than or equal to 1, not 0"):
        Plan([tmp_path / "p.jsonl"], {"steps": 0}).check(print)


def test_tuned_settings_fill_what_a_row_leaves_open(tmp_path):
    rows = [{"prompt": "a", "control": "syngen"}, {"prompt": "a", "control": {"method": "syngen", "step_size": 3}}]
    jobs = list(plan(tmp_path, rows, tuned={"syngen": {"step_size": 77.0}}).jobs())
    assert [job.control[0]["step_size"] for job in jobs] == [77.0, 3.0]


def test_ids(tmp_path):
    rows = [
        {"prompt": "A Cat!"},
        {"prompt": "A Cat!"},
        {"prompt": "猫"},
        {"prompt": "x", "id": "row-1"},
        {"prompt": "x" * 900},
    ]
    names = [job.name for job in plan(tmp_path, rows).jobs()]
    assert names[0].startswith("a-cat-") and names[1] == names[0].replace("_0", "-2_0")
    assert names[2].startswith("prompt-") and names[3] == "row-1_0" and len(names[4]) < 60
    moved = [job.name for job in plan(tmp_path, [{"prompt": "new"}, *rows]).jobs()]
    assert moved[1:] == names  # a row added at the top renames nothing
    twice = [{"prompt": "a", "id": "x"}, {"prompt": "b", "id": "X"}, {"prompt": "c", "id": "y"}]
    assert check(plan(tmp_path, twice)) == (2, [(2, "id")])


def test_every_problem_is_reported_and_can_be_skipped(tmp_path):
    rows = [{"prompt": "a", "steps": 0, "width": 12}, {"prompt": "b"}, {"promt": "c"}]
    bad = plan(tmp_path, rows)
    assert check(bad) == (1, [(1, "steps"), (1, "width"), (3, "prompt"), (3, "promt")])
    with pytest.raises(ValueError, match="changed"):
        list(bad.jobs())
    assert [job.prompt for job in plan(tmp_path, rows, skip_invalid=True).jobs()] == ["b"]


def test_an_empty_file_is_a_problem(tmp_path):
    assert check(plan(tmp_path, "# nothing\n\n", "p.txt")) == (0, [(None, None)])


def test_shards_part_the_rows(tmp_path):
    rows = [{"prompt": f"prompt {i}", "seeds": [1, 2]} for i in range(60)]
    whole = [job.name for job in plan(tmp_path, rows).jobs()]
    shards = [[job.name for job in plan(tmp_path, rows, shard=(i, 3)).jobs()] for i in (1, 2, 3)]
    assert sorted(itertools.chain(*shards)) == sorted(whole) and all(10 <= len(shard) <= 90 for shard in shards)
    assert check(plan(tmp_path, rows, shard=(2, 3)))[0] == len(shards[1])
    assert [job.name for job in plan(tmp_path, rows, limit=5).jobs()] == whole[:5]
    assert check(plan(tmp_path, rows, limit=5))[0] == 5


def test_layouts_and_masks_are_read_relative_to_the_prompt_file(tmp_path):
    (tmp_path / "boxes.json").write_text('{"cat": [0, 0, 0.5, 1]}')
    rows = [{"prompt": "a cat", "layout": "boxes.json"}, {"prompt": "a cat", "layout": {"cat": "none.png"}}]
    assert check(plan(tmp_path, rows)) == (1, [(2, "layout")])
    assert check(plan(tmp_path, rows, allow_files=False)) == (0, [(1, "layout"), (2, "layout")])
    job = next(plan(tmp_path, rows, skip_invalid=True).jobs())
    key = job.key("m")
    (tmp_path / "boxes.json").write_text('{"cat": [0, 0, 0.6, 1]}')
    assert job.key("m") == key  # a job does not change while it waits
    assert next(plan(tmp_path, rows, skip_invalid=True).jobs()).key("m") != key
    assert job.layout == {"cat": [0, 0, 0.5, 1]}


def test_masks_of_a_layout_file_are_relative_to_it(tmp_path):
    (tmp_path / "sub").mkdir()
    Image.new("L", (4, 4), 255).save(tmp_path / "sub" / "whole.png")
    (tmp_path / "sub" / "cat.json").write_text('{"objects": [{"phrase": "cat", "mask": "whole.png"}]}')
    job = next(plan(tmp_path, [{"prompt": "a cat", "layout": "sub/cat.json"}]).jobs())
    assert job.layout == {"objects": [{"phrase": "cat", "mask": str(tmp_path / "sub" / "whole.png")}]}
    key = job.key("m")
    Image.new("L", (4, 2), 255).save(tmp_path / "sub" / "whole.png")
    assert job.key("m") != key  # the mask's name is the same, its pixels are not


def test_the_key_holds_everything_that_determines_the_image(tmp_path):
    row = {"prompt": "a cat", "layout": {"cat": [0, 0, 1, 1]}}
    changes = [
        {"prompt": "a dog and a cat"}, {"negative_prompt": "x"}, {"seed": 4}, {"steps": 3}, {"guidance_scale": 2},
        {"width": 64}, {"height": 64},
        {"control": "syngen"}, {"control": {"method": "syngen", "step_size": 3}}, {"subjects": ["cat"]},
        {"layout": {"cat": [0, 0, 0.9, 1]}}, {"layout": "auto"}, {"layout": None},
    ]  # fmt: skip
    jobs = list(plan(tmp_path, [row, *({**row, **change} for change in changes)]).jobs())
    assert len({job.key("m") for job in jobs}) == len(jobs)
    assert jobs[0].key("m") != jobs[0].key("n")
    same = [
        {**row, "id": "other", "metadata": {"a": 1}},
        {**row, "layout": {"objects": [{"phrase": "cat", "boxes": [[0, 0, 1, 1]]}]}},
    ]
    assert {job.key("m") for job in plan(tmp_path, same).jobs()} == {jobs[0].key("m")}


@pytest.mark.parametrize("rows", [4_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_rows_are_streamed_in_constant_memory(tmp_path, rows):
    (tmp_path / "big.txt").write_text("".join(f"prompt number {i}\n" for i in range(rows)))
    big = Plan([tmp_path / "big.txt"], {"steps": 5})
    next(big.jobs())  # imports and caches
    tracemalloc.start()
    count = sum(1 for _ in big.jobs())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == rows
    assert peak < 500_000  # bytes; a list of 4,000 jobs alone takes more


def test_a_model_that_heeds_no_negative_prompt_is_warned_of_once(tmp_path):
    rows = [{"prompt": "a"}, {"prompt": "b", "negative_prompt": "c"}, {"prompt": "d", "negative_prompt": "e"}]
    with pytest.warns(UserWarning, match="heeds no negative prompt") as caught:
        assert check(plan(tmp_path, rows, heeds_negative_prompt=False)) == (3, [])
    assert len(caught) == 1
    assert check(plan(tmp_path, rows)) == (3, [])
    assert check(plan(tmp_path, rows[:1], heeds_negative_prompt=False)) == (1, [])
