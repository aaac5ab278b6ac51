"""From results to tables: success rates, differences to plain sampling on the same images, seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from apps.faithfulness.prompts import layout_for
from apps.faithfulness.results import PLAIN, Result
from attncontrol.evaluation.oracle import Detection, expected_from_prompt, verdict
from attncontrol.evaluation.statistics import bootstrap_interval, compare_paired, ratio_difference

Case = tuple[str, int]  # prompt, seed
Results = dict[tuple[str, str, int], Result]
EXTRA_SEEDS = 1_000_000  # the k-th further draw of a case has the seed + k times this


def phrases(prompt: str) -> list[str]:
    """The named things as the prompt has them: "cat", "red suitcase"."""
    return [f"{colour} {name}" if colour else name for name, colour in expected_from_prompt(prompt)]


def present(result: Result) -> bool:
    """Every named object is there, whatever its colour."""
    return verdict(expected_from_prompt(result.prompt), result.detections).all_present


def faithful(result: Result) -> bool:
    """Every named object is there, in its colour where the prompt names one."""
    return verdict(expected_from_prompt(result.prompt), result.detections).all_right


def colours(result: Result) -> list[bool]:
    """For every object that is there and whose colour the prompt names: whether the colour is right."""
    expected = expected_from_prompt(result.prompt)
    seen = verdict(expected, result.detections)
    pairs = zip(expected, seen.present, seen.coloured, strict=True)
    return [coloured for (_, colour), there, coloured in pairs if colour and there]


def placed(result: Result) -> bool:
    """Every named object has its centre in its box."""
    return all(any(centre_inside(d.box, box) for d in found) for found, box in _candidates(result))


def overlap_with_boxes(result: Result) -> float:
    """Mean over the named objects of the intersection over union with their boxes, 0 for an absent object."""
    return float(np.mean([max((iou(d.box, box) for d in found), default=0.0) for found, box in _candidates(result)]))


def _candidates(result: Result) -> list[tuple[list[Detection], Sequence[float]]]:
    """For every named object the detections of that name and the box it should be in."""
    boxes = layout_for(result.prompt, phrases(result.prompt)).values()
    names = [name for name, _ in expected_from_prompt(result.prompt)]
    return [([d for d in result.detections if d.object == n], box) for n, box in zip(names, boxes, strict=True)]


def centre_inside(box: Sequence[float], frame: Sequence[float]) -> bool:
    """Whether the centre of an xyxy box lies in another one."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return frame[0] <= x <= frame[2] and frame[1] <= y <= frame[3]


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two xyxy boxes."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0.0) * max(height, 0.0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def draws_at_equal_seconds(results: Results, method: str, cases: Sequence[Case]) -> int:
    """How many plain images take as long as one of the method, rounded, at least one."""
    return max(1, round(_seconds(results, method, cases) / _seconds(results, PLAIN, cases)))


def extra_case(case: Case, draw: int) -> Case:
    """The case of the `draw`-th image drawn for it, from 0 on."""
    return case[0], case[1] + draw * EXTRA_SEEDS


def _seconds(results: Results, method: str, cases: Sequence[Case]) -> float:
    return float(np.mean([results[method, *case].seconds for case in cases]))


def table(
    results: Results, methods: Sequence[str], cases: Sequence[Case], best_of: Mapping[int, Sequence[str]] | None = None
) -> list[dict[str, Any]]:
    """One row per method for presence and colours, then one per number of plain draws of which the best counts.

    `best_of` maps such a number to the methods one image of which takes about as long.
    """
    rows = [_row(results, method, cases, faithful) for method in methods]
    for row, method in zip(rows, methods, strict=True):
        plain, found = ([results[name, *case] for case in cases] for name in (PLAIN, method))
        right = [value for result in found for value in colours(result)]
        row |= {"present": _mean(map(present, found)), "right colour": _mean(right) if right else None}
        if method != PLAIN:
            row |= _changes(plain, found)
    for draws, slow in (best_of or {}).items():
        rows.append(_best_of_row(results, cases, draws, slow))
    return rows


def _changes(plain: Sequence[Result], found: Sequence[Result]) -> dict[str, Any]:
    """How presence and the share of right colours differ from plain sampling, with their intervals."""
    paired = compare_paired(list(map(present, plain)), list(map(present, found)))
    row: dict[str, Any] = {"present difference": paired.difference, "present interval": (paired.low, paired.high)}
    before, after = ([(sum(colours(image)), len(colours(image))) for image in arm] for arm in (plain, found))
    if any(things for _, things in before) and any(things for _, things in after):
        difference, low, high = ratio_difference(before, after)
        row |= {"right colour difference": difference, "right colour interval": (low, high)}
    return row


def layout_table(results: Results, methods: Sequence[str], cases: Sequence[Case]) -> list[dict[str, Any]]:
    """One row per method for box placement."""
    rows = [_row(results, method, cases, placed) for method in methods]
    for row, method in zip(rows, methods, strict=True):
        overlaps = [overlap_with_boxes(results[method, *case]) for case in cases]
        row |= {"IoU": _mean(overlaps), "IoU interval": bootstrap_interval(overlaps)}
        row |= {"present": _mean(present(results[method, *case]) for case in cases)}
    return rows


def _row(results: Results, method: str, cases: Sequence[Case], success: Callable[[Result], bool]) -> dict[str, Any]:
    outcome = [success(results[method, *case]) for case in cases]
    row = {"method": method, "images": len(cases), "success": _mean(outcome)}
    row |= {"seconds per image": _seconds(results, method, cases)}
    if method != PLAIN:
        row |= _difference([success(results[PLAIN, *case]) for case in cases], outcome)
    return row


def _best_of_row(results: Results, cases: Sequence[Case], draws: int, slow: Sequence[str]) -> dict[str, Any]:
    tries = [[results[PLAIN, *extra_case(case, draw)] for draw in range(draws)] for case in cases]
    outcome = [any(map(faithful, images)) for images in tries]
    row = {
        "method": f"best of {draws} plain (time of {', '.join(slow)})",
        "images": len(cases),
        "success": _mean(outcome),
    }
    row |= {"present": _mean(any(map(present, images)) for images in tries), "right colour": None}
    row |= {"seconds per image": _mean(sum(image.seconds for image in images) for images in tries)}
    return row | _difference([faithful(results[PLAIN, *case]) for case in cases], outcome)


def _difference(plain: Sequence[bool], outcome: Sequence[bool]) -> dict[str, Any]:
    paired = compare_paired(plain, outcome)
    return {
        "difference": paired.difference,
        "interval": (paired.low, paired.high),
        "repaired": paired.repaired,
        "broken": paired.broken,
        "p": paired.p_value,
    }


def _mean(values: Any) -> float:
    return float(np.mean(list(values)))


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a Markdown table, shares in per cent."""
    columns = [name for name in ("success", "present", "right colour", "IoU") if any(name in row for row in rows)]
    head = ["method", *columns, "difference to plain [95%]", "repaired / broken", "p", "s per image"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for row in rows:
        cells = [row["method"], *(_share(row.get(column)) for column in columns)]
        for index, column in enumerate(columns, 1):
            if f"{column} difference" in row:
                change = _change(row[f"{column} difference"], row[f"{column} interval"])
                cells[index] += f" ({change})"
        if "difference" in row:
            cells += [_change(row["difference"], row["interval"])]
            cells += [f"{row['repaired']} / {row['broken']}", f"{row['p']:.2g}"]
        else:
            cells += ["", "", ""]
        lines.append("| " + " | ".join([*cells, f"{row['seconds per image']:.2f}"]) + " |")
    return "\n".join(lines) + "\n"


def _change(difference: float, interval: tuple[float, float]) -> str:
    return f"{100 * difference:+.1f} [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"
