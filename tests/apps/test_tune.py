"""Tuning a tiny random model by the real oracle and by a tiny CLIP."""

import json

import pytest

from apps import tune
from apps.faithfulness.prompts import read_list, tuning
from attncontrol.evaluation import oracle
from tests import tiny
from tests.evaluation.test_metrics import clip_folder  # noqa: F401


@pytest.fixture
def run(tmp_path):
    """Tunes for candidates on one prompt each; returns control.json."""
    tiny.stable_diffusion().save_pretrained(tmp_path / "model")
    for name, prompt in (("pairs", "a red crown and a blue bow"), ("guard", "a cat")):
        (tmp_path / f"{name}.txt").write_text(f"# one\n{prompt}\n")

    def run(candidates, *more):
        (tmp_path / "candidates.json").write_text(json.dumps(candidates))
        files = ["--prompts", str(tmp_path / "pairs.txt"), "--guard", str(tmp_path / "guard.txt")]
        args = [str(tmp_path / "model"), str(tmp_path / "candidates.json"), *files, "--steps", "2", *more]
        tune.tune(tune.arguments(args))
        kept = tmp_path / "model" / "control.json"
        return json.loads(kept.read_text()) if kept.exists() else {}

    return run


def test_the_candidate_of_the_largest_clip_gain_is_kept(run, capsys, monkeypatch, clip_folder):  # noqa: F811
    monkeypatch.setattr(tune, "SPOILT", 1e6)  # a random model's one-object pictures are no better than others
    settings = [{"step_size": 200.0}, {"step_size": 2000.0}]
    kept = run({"conform": {"goal": "clip_full", "settings": settings}}, "--clip-model", clip_folder)
    plain, *lines = map(json.loads, capsys.readouterr().out.splitlines())
    assert [line["conform"] for line in lines] == settings and len({line["gain"] for line in lines}) == 2
    gains = [round(line["clip_full"] - plain["plain"]["clip_full"], 4) for line in lines]
    assert gains == pytest.approx([line["gain"] for line in lines], abs=2e-4)
    best = max(lines, key=lambda line: line["gain"])
    assert kept == ({"conform": best["conform"]} if best["gain"] > 0 else {})


@pytest.mark.skipif(not oracle.WEIGHTS.exists(), reason="the oracle's weights are not there")
def test_nothing_is_kept_where_nothing_gains(run, capsys):
    assert run({"conform": {"goal": "right", "settings": [{"step_size": 0.0}]}}) == {}
    plain, line = map(json.loads, capsys.readouterr().out.splitlines())
    assert line["gain"] == 0 and plain["plain"].keys() == {"present", "right", "placed"}


def test_candidates_that_cannot_be_tried_are_explained(run):
    with pytest.raises(ValueError, match="must map methods to"):
        run({"conform": [{"step_size": 1}]})
    goals = {"conform": {"goal": "clip_full", "settings": []}, "syngen": {"goal": "right", "settings": []}}
    with pytest.raises(ValueError, match="several judges"):
        run(goals)


def test_the_tuning_prompts_are_those_of_the_list():
    assert read_list("tuning") == tuning() and len(tuning()) == 96
