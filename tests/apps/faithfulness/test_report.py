"""Tables from hand-made detections, so that every number can be counted by hand."""

import json

import pytest

from apps.faithfulness import report
from apps.faithfulness.prompts import layout_for
from apps.faithfulness.results import PLAIN, Result, ResultFile, check_settings
from attncontrol.evaluation.oracle import Detection

PROMPT = "a cat and a red bow"
SEEN = {
    "nothing": [],
    "cat": [("cat", None)],
    "blue bow": [("cat", None), ("bow", "blue")],
    "all": [("cat", None), ("bow", "blue"), ("bow", "red")],
}


def result(method, seed, seen, seconds=1.0, box=(0.0, 0.0, 0.5, 0.5), prompt=PROMPT) -> Result:
    return Result(method, prompt, seed, seconds, tuple(Detection(name, c, box, 0.9) for name, c in SEEN[seen]))


def gathered(*results) -> dict:
    return {one.key: one for one in results}


def test_rates_and_paired_counts():
    plain = ["nothing", "cat", "blue bow", "all"]
    better = ["all", "blue bow", "all", "cat"]
    results = gathered(
        *(result(PLAIN, seed, seen) for seed, seen in enumerate(plain)),
        *(result("x", seed, seen, 2.0) for seed, seen in enumerate(better)),
    )
    first, second = report.table(results, [PLAIN, "x"], [(PROMPT, seed) for seed in range(4)])
    assert (first["success"], first["present"], first["right colour"]) == (0.25, 0.5, 0.5)
    assert (second["success"], second["present"], second["right colour"]) == (0.5, 0.75, 2 / 3)
    assert (second["difference"], second["repaired"], second["broken"]) == (0.25, 2, 1)
    assert second["p"] == 1.0 and second["seconds per image"] == 2.0 and "difference" not in first
    assert second["right colour difference"] == pytest.approx(2 / 3 - 1 / 2)
    low, high = second["right colour interval"]
    assert low < 0 < high
    text = report.markdown([first, second])
    assert "| x | 50.0 | 75.0 (+25.0 [" in text and "| 66.7 (+16.7 [" in text


def test_best_of_several_plain_images_at_equal_seconds():
    cases = [(PROMPT, 0), (PROMPT, 1)]
    results = gathered(
        *(result(PLAIN, seed, "nothing", 0.5) for seed in (0, 1)),
        *(result("slow", seed, "all", 1.6) for seed in (0, 1)),
        result(PLAIN, report.EXTRA_SEEDS, "blue bow", 0.5), result(PLAIN, 2 * report.EXTRA_SEEDS, "all", 0.5),
        *(result(PLAIN, draw * report.EXTRA_SEEDS + 1, "cat", 0.5) for draw in (1, 2)),
    )  # fmt: skip
    assert report.draws_at_equal_seconds(results, "slow", cases) == 3
    row = report.table(results, [PLAIN], cases, best_of={2: ["quick"], 3: ["slow"]})[-1]
    assert row["method"] == "best of 3 plain (time of slow)"
    assert (row["success"], row["present"], row["seconds per image"]) == (0.5, 0.5, 1.5)
    assert (row["repaired"], row["broken"]) == (1, 0)
    assert report.table(results, [PLAIN], cases, best_of={2: ["quick"]})[-1]["success"] == 0.0


def test_placement_counts_centres_and_overlap():
    cat_box, bow_box = layout_for(PROMPT, report.phrases(PROMPT)).values()
    assert report.phrases(PROMPT) == ["cat", "red bow"]
    inside = Result("x", PROMPT, 0, 1.0, (Detection("cat", None, tuple(cat_box), 1.0),
                                           Detection("bow", "red", tuple(bow_box), 1.0)))  # fmt: skip
    exchanged = Result(PLAIN, PROMPT, 0, 1.0, (Detection("cat", None, tuple(bow_box), 1.0),
                                               Detection("bow", "red", tuple(cat_box), 1.0)))  # fmt: skip
    assert report.placed(inside) and report.overlap_with_boxes(inside) == pytest.approx(1.0)
    assert not report.placed(exchanged) and report.overlap_with_boxes(exchanged) == 0.0
    plain, method = report.layout_table(gathered(inside, exchanged), [PLAIN, "x"], [(PROMPT, 0)])
    assert (plain["success"], method["success"], method["IoU"]) == (0.0, 1.0, 1.0) and method["repaired"] == 1
    assert report.iou((0, 0, 0.5, 1), (0.25, 0, 0.75, 1)) == pytest.approx(1 / 3)


def test_results_survive_a_cut_and_are_not_made_twice(tmp_path):
    file = ResultFile(tmp_path)
    file.append([result(PLAIN, 0, "all"), result("x", 0, "cat")])
    with file.path.open("ab") as raw:
        raw.write(b'{"method": "x", "pro')
    again = ResultFile(tmp_path)
    assert again.results == file.results and file.path.read_bytes().endswith(b"\n")
    again.append([result("x", 1, "nothing")])
    assert len(ResultFile(tmp_path).results) == 3


def test_results_of_different_settings_are_kept_apart(tmp_path):
    check_settings(tmp_path, {"steps": 30}, {"x": [{"step_size": 1}]})
    check_settings(tmp_path, {"steps": 30}, {"y": []})
    assert set(json.loads((tmp_path / "settings.json").read_text())["methods"]) == {"x", "y"}
    with pytest.raises(ValueError, match="steps = 30, not 20"):
        check_settings(tmp_path, {"steps": 20}, {})
    with pytest.raises(ValueError, match="'x' with other settings"):
        check_settings(tmp_path, {"steps": 30}, {"x": [{"step_size": 2}]})
