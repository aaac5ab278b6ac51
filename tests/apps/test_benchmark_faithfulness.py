"""The whole benchmark on a tiny random model, with the real oracle: files, resuming, layout section."""

import json

import pytest

from apps import benchmark_faithfulness
from apps.faithfulness.results import ResultFile
from attncontrol.evaluation import oracle
from tests import tiny

pytestmark = pytest.mark.skipif(not oracle.WEIGHTS.exists(), reason="the oracle's weights are not there")


@pytest.fixture
def run(tmp_path, monkeypatch):
    tiny.stable_diffusion().save_pretrained(tmp_path / "model")
    given = ["--model", str(tmp_path / "model"), "--output", str(tmp_path / "out"), "--steps", "1", "--sample", "1"]
    return lambda *more: benchmark_faithfulness.run(benchmark_faithfulness.arguments([*given, *more]))


def test_the_benchmark_reports_resumes_and_grows(run, tmp_path, monkeypatch):
    text = run("--methods", "ebama", "--batch-size", "2", "--no-best-of")
    assert (
        "### all prompts (3 images)" in text
        and "### one object (1 images)" in text
        and "| ebama |" in text
        and "| plain |" in text
    )
    made = ResultFile(tmp_path / "out").results
    assert len(made) == 8
    drawn = []
    monkeypatch.setattr(
        benchmark_faithfulness, "draw", lambda *a, draw=benchmark_faithfulness.draw: drawn.append(a[1:4:2]) or draw(*a)
    )
    text = run("--methods", "ebama,layout-guidance", "--no-best-of", "--pictures")
    assert [(name, len(cases)) for name, cases in drawn] == [("layout-guidance", 4)]
    assert "Placement" in text and "| layout-guidance |" in text
    rows = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["method"] for row in rows["layout"]["all prompts"]] == ["plain", "layout-guidance"]
    assert {r["method"] for r in rows["faithfulness"]["objects"]} == {"plain", "ebama"}
    assert ResultFile(tmp_path / "out").results.items() > made.items()
    kept = {path.name for path in (tmp_path / "out" / "pictures").iterdir()}
    fresh = [r for r in ResultFile(tmp_path / "out").results.values() if r.method == "layout-guidance"]
    assert kept == {result.picture for result in fresh} and len(kept) == 4
    with pytest.raises(ValueError, match="steps = 1, not 2"):
        run("--steps", "2")


def test_controls_of_the_same_methods_are_all_drawn(run, tmp_path):
    run("--methods", "syngen,1.0*syngen", "--no-best-of")
    assert {name for name, *_ in ResultFile(tmp_path / "out").results} == {"plain", "syngen", "1.0*syngen"}


def test_unknown_methods_are_explained(run):
    with pytest.raises(ValueError, match="did you mean 'syngen'"):
        run("--methods", "synge")


def test_no_two_prompts_or_seeds_share_their_noise():
    cases = [("a cat and a frog", 0), ("a cat and a frog", 1), ("a cat and a dog", 0), ("a cat and a dog", 1)]
    assert len({benchmark_faithfulness.noise_seed(*case) for case in cases}) == 4
    assert benchmark_faithfulness.noise_seed("a cat", 0) == 1474040931
