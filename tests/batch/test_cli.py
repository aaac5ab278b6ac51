"""`attncontrol batch`, `evaluate` and `report` on a tiny random model."""

import json
import os
import re
import threading

import pytest
from diffusers import UNet2DConditionModel
from typer.testing import CliRunner

from attncontrol.cli import app
from tests import tiny


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny.stable_diffusion().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def invoke(model):
    def run(command, *args, code=0):
        extra = ["--model", model, "--steps", "2", "--device", "cpu"] if command == "batch" else []
        result = CliRunner().invoke(app, [command, *map(str, args), *extra])
        assert result.exit_code == code, result.output
        return result.output

    return run


def test_a_file_from_start_to_report(tmp_path, invoke):
    prompts, out = tmp_path / "pets.txt", tmp_path / "out"
    prompts.write_text("a red cat and a blue dog\n--prompt 'a lion' --seed 4 --n_iter 2\n")
    layouts = ["--contact-sheets", "--t2i-compbench", tmp_path / "bench", "--geneval", tmp_path / "geneval"]
    text = invoke("batch", prompts, "--output", out, "--control", "syngen", *layouts)
    assert "3 images left out: not from a GenEval" in text
    assert len(list((out / "images").glob("*.png"))) == 3 == len((out / "metadata.jsonl").read_text().splitlines())
    names = sorted(path.name for path in (tmp_path / "bench" / "samples").iterdir())
    assert names == ["a lion_000001.png", "a lion_000002.png", "a red cat and a blue dog_000000.png"]
    assert (out / "contact_sheets" / "pets_0001.png").is_file()
    run = json.loads((out / "run.json").read_text())
    assert (run["ended"], run["made"], run["dtype"]) == ("complete", 3, "float32") and len(run["model_sha256"]) == 64

    again = invoke("batch", prompts, "--output", out, "--control", "syngen")
    assert json.loads((out / "run.json").read_text())["found"] == 3 and "failed" in again
    dry = invoke("batch", prompts, "--output", out, "--control", "syngen", "--dry-run", "--limit", "2")
    assert dry.count("(done)") == 2 and "2 images, 2 of them done; 0 sampling steps to do" in dry
    dry = invoke("batch", prompts, "--output", out, "--control", "syngen", "--dry-run", "--guidance-scale", "2")
    assert "3 images, 0 of them done; 6 sampling steps to do" in dry and "s per step of the last run" in dry
    assert "make a few first" in invoke("batch", prompts, "--output", tmp_path / "new", "--dry-run")

    invoke("batch", prompts, "--output", tmp_path / "plain", "--control", "none")
    assert "oracle_right" in invoke("evaluate", out)
    invoke("evaluate", tmp_path / "plain")
    text = invoke("report", tmp_path / "plain", out, "--output", tmp_path / "both")
    assert "| pets | plain | 3 |" in text and "| pets | syngen | 3 |" in text
    assert (tmp_path / "both.html").is_file() and (out / "report.md").is_file()


def test_progress_where_there_is_no_terminal(tmp_path, invoke, monkeypatch):
    monkeypatch.setattr("attncontrol.cli.batch.REPORT_SECONDS", -1.0)
    rows = [{"prompt": "a cat"}, {"prompt": "a cat", "subjects": [70]}, {"prompt": "a dog"}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = ["--output", tmp_path / "out", "--control", "syngen", "--batch-size", "1"]
    text = invoke("batch", tmp_path / "p.jsonl", *args, code=1)
    assert re.search(r"1 of 3: \d+\.\d\d images/s, \d+:\d\d left\n", text)
    assert re.search(r"3 of 3: \d+\.\d\d images/s, 0:00 left, 1 failed\n", text)
    assert re.search(r"jobs +made +found done +failed +time +images/s *\n3 +2 +0 +1 +\d+:\d\d +\d+\.\d\d", text)


def test_the_memory_mode_is_handed_on(tmp_path, invoke, monkeypatch):
    recomputing, enable = [], UNet2DConditionModel.enable_gradient_checkpointing

    def note(unet):
        recomputing.append(unet)
        enable(unet)

    monkeypatch.setattr(UNet2DConditionModel, "enable_gradient_checkpointing", note)
    prompts = tmp_path / "pets.txt"
    prompts.write_text("a red cat and a blue dog\n")
    for memory in ("fast", "low"):
        out = tmp_path / memory
        invoke("batch", prompts, "--output", out, "--control", "syngen", "--memory", memory)
        assert bool(recomputing) is (memory == "low")
        assert json.loads((out / "run.json").read_text())["memory"] == memory


def test_geneval_layout(tmp_path, invoke):
    row = {"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": "a photo of a cat"}
    (tmp_path / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    target = tmp_path / "geneval"
    args = ["--output", tmp_path / "out", "--control", "none", "--images-per-prompt", "2", "--geneval", target]
    invoke("batch", tmp_path / "metadata.jsonl", *args)
    assert json.loads((target / "00000" / "metadata.jsonl").read_text()) == row
    assert sorted(p.name for p in (target / "00000" / "samples").iterdir()) == ["0000.png", "0001.png"]


def test_an_export_replaces_the_one_before_and_nothing_else(tmp_path, invoke):
    rows = [{"tag": "x", "include": [], "prompt": prompt} for prompt in ("a cat", "a dog", "a lion")]
    (tmp_path / "g.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    geneval, bench = tmp_path / "geneval", tmp_path / "bench"
    (bench / "samples").mkdir(parents=True)
    (bench / "samples" / "my own_000007.png").touch()
    (geneval / "00002").mkdir(parents=True)
    (geneval / "00002" / "results.json").touch()
    args = ["--output", tmp_path / "out", "--control", "none", "--geneval", geneval, "--t2i-compbench", bench]
    invoke("batch", tmp_path / "g.jsonl", *args)
    images = tmp_path / "out" / "images"
    for path in [*images.glob("a-cat*"), *images.glob("a-dog*")]:
        path.unlink()
    (tmp_path / "g.jsonl").write_text(json.dumps(rows[2]) + "\n")
    invoke("batch", tmp_path / "g.jsonl", *args)
    assert sorted(path.name for path in geneval.iterdir()) == [".attncontrol.json", "00000", "00002"]
    assert json.loads((geneval / "00000" / "metadata.jsonl").read_text())["prompt"] == "a lion"
    assert [path.name for path in (geneval / "00002").iterdir()] == ["results.json"]
    assert sorted(path.name for path in (bench / "samples").iterdir()) == ["a lion_000000.png", "my own_000007.png"]
    (bench / ".attncontrol.json").write_text('["../out/run.json"]')
    assert "not the list of files" in invoke("batch", tmp_path / "g.jsonl", *args, code=2)
    assert (tmp_path / "out" / "run.json").is_file()


def test_an_empty_shard_is_no_error(tmp_path, invoke):
    (tmp_path / "p.txt").write_text("a cat\n")
    texts = [invoke("batch", tmp_path / "p.txt", "--output", tmp_path / n, "--shard", f"{n}/2") for n in "12"]
    assert sorted("nothing to make" in text for text in texts) == [False, True]


def test_overlays_are_made_for_what_has_none(tmp_path, invoke):
    prompts, out = tmp_path / "p.txt", tmp_path / "out"
    prompts.write_text("a cat and a dog\n!!\n")
    invoke("batch", prompts, "--output", out, "--control", "none")
    assert not (out / "maps").exists()
    for made, found in ((2, 0), (0, 2)):
        invoke("batch", prompts, "--output", out, "--control", "none", "--maps")
        run = json.loads((out / "run.json").read_text())
        assert (run["made"], run["found"]) == (made, found)
    overlays = sorted((out / "maps").iterdir())
    assert [path.name for path in overlays] == sorted(path.name for path in (out / "images").glob("*.png"))
    overlays[0].write_bytes(overlays[0].read_bytes()[:-9])
    invoke("batch", prompts, "--output", out, "--control", "none", "--maps")
    assert json.loads((out / "run.json").read_text())["made"] == 1
    invoke("batch", prompts, "--output", out, "--control", "none", "--guidance-scale", "2")
    assert not list((out / "maps").iterdir()), "the overlays of images that are no longer there"


def test_wrong_files_make_nothing(tmp_path, invoke):
    prompts, out = tmp_path / "p.txt", tmp_path / "out"
    prompts.write_text("a cat\n--prompt dog --steps x\n--stepz 3\n")
    text = invoke("batch", prompts, "--output", out, code=2)
    assert "p.txt:2: steps: must be a valid integer, not 'x'" in text and "p.txt:3: --stepz" in text
    assert not out.exists()
    text = invoke("batch", tmp_path / "none.txt", "--output", out, code=2)
    assert "cannot read" in text and not out.exists()


def test_the_input_and_pipes_are_read_once(tmp_path, invoke, model):
    common = ["--model", model, "--steps", "2", "--output", str(tmp_path / "out"), "--dry-run", "--seed", "random"]
    result = CliRunner().invoke(app, ["batch", "-", *common], input="prompt;seed\na cat;3\na dog;\n")
    seed = re.search(r"seed (\d+)\n", result.output)[1]
    assert result.exit_code == 0 and re.search(rf"a-cat-\w+_3 .*\na-dog-\w+_{seed} ", result.output), result.output
    os.mkfifo(tmp_path / "pipe.csv")
    threading.Thread(target=(tmp_path / "pipe.csv").write_text, args=["prompt\na lion\n"]).start()
    assert "1 images" in invoke("batch", tmp_path / "pipe.csv", "--output", tmp_path / "out", "--dry-run")
    assert "given twice" in invoke("batch", "-", "/dev/stdin", "--output", tmp_path / "out", "--dry-run", code=2)


def test_skipping_is_recommended_only_if_it_leaves_something(tmp_path, invoke):
    for text, left in (("--stepz 3\n", False), ("--stepz 3\na cat\n", True)):
        (tmp_path / "p.txt").write_text(text)
        output = invoke("batch", tmp_path / "p.txt", "--output", tmp_path / "out", code=2)
        assert ("--skip-invalid goes on with the other 1 image" in output) is left


def test_invalid_rows_left_out_and_failed_jobs(tmp_path, invoke):
    rows = [{"prompt": "a cat", "subjects": [70]}, {"prompt": "a cat"}, {"promt": "x"}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    args = ["--output", tmp_path / "out", "--control", "syngen", "--skip-invalid"]
    text = invoke("batch", tmp_path / "p.jsonl", *args, code=1)
    assert "left out: " in text and "failed: " in text and "70" in text
    assert len((tmp_path / "out" / "metadata.jsonl").read_text().splitlines()) == 1
    assert len((tmp_path / "out" / "failures.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--shard", "3/2"], "--shard"),
        (["--shard", "x"], "--shard"),
        (["--control", "syngn"], "did you mean 'syngen'"),
        (["--set", "stepsize=3"], "did you mean"),
        (["--seed", "-3", "--skip-invalid"], "--seed: '-3' must be a whole number from 0"),
        (["--geneval", "{out}/geneval"], "--geneval"),
        (["--width", "65"], "--width"),
    ],
)
def test_wrong_options(tmp_path, invoke, args, words):
    (tmp_path / "p.txt").write_text("a cat\n")
    args = [arg.replace("{out}", str(tmp_path / "out")) for arg in args]
    assert words in invoke("batch", tmp_path / "p.txt", "--output", tmp_path / "out", *args, code=2)
    assert not (tmp_path / "out").exists()


def test_the_folder_loads_as_a_dataset(tmp_path, invoke):
    datasets = pytest.importorskip("datasets")
    (tmp_path / "p.jsonl").write_text('{"prompt": "a cat", "layout": {"cat": [0, 0, 1, 1]}}\n{"prompt": "a lion"}\n')
    invoke("batch", tmp_path / "p.jsonl", "--output", tmp_path / "out", "--control", "none", "--contact-sheets")
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(tmp_path / "out"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert sorted(loaded["prompt"]) == ["a cat", "a lion"] and loaded[0]["image"].size == (32, 32)


def test_evaluating_what_is_no_batch_folder(tmp_path, invoke):
    assert "no folder" in invoke("evaluate", tmp_path / "none", code=2)
    assert "no images" in invoke("evaluate", tmp_path, code=2)
    assert "--metric" in invoke("evaluate", tmp_path, "--metric", "magic", code=2)
    assert "twice" in invoke("report", tmp_path, tmp_path, code=2)
