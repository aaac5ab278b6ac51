import json
import shutil
from pathlib import Path

import pytest

from attncontrol.evaluation.report import markdown, write_reports
from attncontrol.evaluation.scoring import read_scores, score_folder
from attncontrol.evaluation.summary import extremes, tables
from tests.batch.stand_in import run


class Brightness:
    """A metric whose value the test can compute."""

    columns = {"bright": "share of pixels of the first kind"}  # noqa: RUF012

    def __init__(self):
        self.scored = 0

    def score(self, pictures):
        self.scored += len(pictures)
        return [{"bright": sum(p.image.tobytes()) / 255 / 3072, "note": "text"} for p in pictures]


@pytest.fixture
def folder(tmp_path):
    rows = [
        {"prompt": prompt, "seeds": [0, 1], "control": control}
        for prompt in ("a cat", "a dog")
        for control in (None, "syngen")
    ]
    for name in ("pets", "more"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run([tmp_path / "pets.jsonl", tmp_path / "more.jsonl"], tmp_path / "out")
    return tmp_path / "out"


def test_scores_of_every_image_are_written_and_merged(folder):
    lines = score_folder(folder, [Brightness()])
    assert len(lines) == 16 and read_scores(folder) == lines
    assert {line["method"] for line in lines} == {"plain", "syngen"}
    assert {line["prompt_set"] for line in lines} == {"pets", "more"}
    assert all(0.4 < line["scores"]["bright"] < 0.6 for line in lines)

    class Other(Brightness):
        def score(self, pictures):
            return [{"other": 1.0} for _ in pictures]

    merged = score_folder(folder, [Other()])
    assert all(set(line["scores"]) == {"bright", "note", "other"} for line in merged)
    sidecar = next(iter(sorted((folder / "images").glob("*.json"))))
    changed = json.loads(sidecar.read_text())
    sidecar.write_text(json.dumps({**changed, "image_sha256": "other"}))
    assert sum("bright" in line["scores"] for line in score_folder(folder, [Other()])) == 15


def test_one_method_with_several_settings_is_told_apart(tmp_path):
    rows = [{"prompt": "a cat", "control": {"method": "syngen", "step_size": size}} for size in (3, 4)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run([tmp_path / "p.jsonl"], tmp_path / "out")
    lines = score_folder(tmp_path / "out", [Brightness()])
    assert sorted(line["method"] for line in lines) == ["syngen (step_size=3.0)", "syngen (step_size=4.0)"]


def line(method, prompt, seed, value, prompt_set="set", name="score"):
    return {
        "file_name": f"images/{method}-{prompt}-{seed}.png", "prompt_set": prompt_set, "prompt": prompt,
        "seed": seed, "method": method, "scores": {name: value},
    }  # fmt: skip


def test_differences_are_paired_by_prompt_and_seed():
    plain = [line("plain", f"p{i}", seed, float((i + seed) % 2)) for i in range(10) for seed in range(2)]
    syngen = [line("syngen", f"p{i}", seed, 1.0) for i in range(10) for seed in range(2)]
    other = [line("syngen", "elsewhere", 0, 0.0)]
    table = tables(plain + syngen + other)[0]
    cell = table.cells["set", "syngen"]
    assert table.baseline == "plain" and cell.images == 21
    assert cell.mean == pytest.approx(20 / 21) and cell.difference == 0.5
    assert cell.difference_low == cell.difference_high == 0.5  # every prompt's mean over its seeds is the same
    assert cell.p_value == pytest.approx(2 * 0.5**10)
    assert table.cells["set", "plain"].difference is None


def test_prompt_sets_and_all():
    lines = [line(m, p, 0, v, s) for m, v in (("a", 1.0), ("b", 0.25)) for p, s in (("x", "one"), ("y", "two"))]
    table = tables(lines)[0]
    assert list(table.cells) == [(s, m) for s in ("one", "two", "all") for m in ("a", "b")]
    assert table.cells["all", "b"].difference == -0.75 and table.cells["all", "b"].p_value is None


def test_scores_that_do_not_apply_are_left_out():
    lines = [line("plain", "x", 0, None), line("plain", "y", 0, 1.0), line("plain", "z", 0, "text", name="caption")]
    assert [table.score for table in tables(lines)] == ["score"]
    assert tables(lines)[0].cells["set", "plain"].images == 1
    assert extremes(lines, "score", 3) == ([], [])


def test_successes_do_not_fill_up_the_failures():
    lines = [{"file_name": f"{i}", "scores": {"right": float(i > 0)}} for i in range(8)]
    worst, best = extremes(lines, "right", 3)
    assert [line["file_name"] for line in worst] == ["0"]
    assert [line["file_name"] for line in best] == ["7", "6", "5"]
    assert extremes(lines[1:], "right", 3) == ([], [])


def test_reports(folder):
    lines = [{**line, "run": ""} for line in score_folder(folder, [Brightness()])]
    lines[0]["prompt"] = "<script>alert(1)</script>"
    write_reports(folder / "report", "A & B", {"": folder}, lines)
    text = (folder / "report.md").read_text()
    assert text == markdown("A & B", lines) and "| pets | syngen | 4 |" in text and "## bright" in text
    assert "16 images, 5 prompts, 2 methods." in text and "Differences are to plain" in text
    alone = markdown("A", [line for line in lines if line["method"] == "syngen"])
    assert "ifference" not in alone and "| prompt set | method | images | mean | 95% interval |\n" in alone
    page = (folder / "report.html").read_text()
    assert "A &amp; B" in page and "<script>" not in page and "data:image/jpeg;base64," in page
    assert "syngen: worst by bright" in page and "plain: best by bright" in page


def test_overlays_are_shown_where_they_are_saved(folder):
    lines = [{**line, "run": ""} for line in score_folder(folder, [Brightness()])]
    worst = min(lines, key=lambda line: line["scores"]["bright"])
    overlays = folder / "maps" / Path(worst["file_name"]).name
    overlays.parent.mkdir()
    shutil.copy(folder / worst["file_name"], overlays)
    write_reports(folder / "report", "A", {"": folder}, lines)
    assert (folder / "report.html").read_text().count(", with attention maps") == 1


def test_folders_without_images_or_scores(tmp_path):
    with pytest.raises(ValueError, match="no images"):
        score_folder(tmp_path, [])
    with pytest.raises(ValueError, match="evaluate"):
        read_scores(tmp_path)
    (tmp_path / "scores.jsonl").write_text("[1]\n")
    with pytest.raises(ValueError, match="not a file of scores"):
        read_scores(tmp_path)
