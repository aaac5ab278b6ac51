import pytest

from apps.benchmark_insertion import Bench as RealBench
from apps.benchmark_insertion import Task, arguments, judge, make_tasks, table
from apps.faithfulness.results import Result
from attncontrol.evaluation.oracle import Detection, expected_from_prompt

TASK = Task(0, ("car", "red"), ("cat", None))
CAR = Detection("car", "red", (0.0, 0.0, 0.5, 0.5), 0.9)
CAT = Detection("cat", None, (0.5, 0.5, 1.0, 1.0), 0.9)


def test_insertions_are_different_take_turns_and_are_read_by_the_oracle_as_meant():
    tasks = make_tasks(arguments([]).insertions, 0)
    assert len({task.target for task in tasks}) == len(tasks) == 60
    assert [task.old[1] is None for task in tasks] == [False, True] * 30
    for task in tasks:
        assert expected_from_prompt(task.target) == [task.old, task.new]


@pytest.mark.parametrize(
    ("after", "inserted", "kept", "iou"),
    [
        ([CAR, CAT], True, True, 1.0),
        ([CAR], False, True, 1.0),
        ([CAT], True, False, 0.0),
        ([Detection("car", "blue", CAR.box, 0.9), CAT], True, False, 0.0),
        ([Detection("car", "red", (0.3, 0.0, 0.8, 0.5), 0.9)], False, False, 0.25),
        ([Detection("car", "red", (0.1, 0.0, 0.6, 0.5), 0.9)], False, True, 2 / 3),
    ],
)
def test_the_new_thing_must_be_there_and_the_old_one_in_its_colour_and_place(after, inserted, kept, iou):
    found = judge([CAR], after, TASK)
    assert (found.inserted, found.kept) == (inserted, kept) and found.iou == pytest.approx(iou)


def test_the_table_counts_scenes_that_show_their_thing_and_goes_on_where_it_stopped(tmp_path):
    bench = RealBench(None, tmp_path)
    bench.file.append(
        [
            Result("scene", TASK.prompt, 0, 1.0, (CAT,)),  # not what was asked for
            Result("insertion", TASK.target, 0, 1.0, (CAT,)),
            Result("scene", TASK.prompt, 1, 1.0, (CAR,)),
            Result("insertion", TASK.target, 1, 1.0, (CAR, CAT)),
            Result("plain", TASK.target, 1, 1.0, (CAT,)),
        ]
    )
    again = RealBench(None, tmp_path)
    again.measure(TASK, "insertion")
    again.measure(TASK, "plain")
    rows = list(table(again, [TASK]))[2:]
    assert rows == [
        "| no control, same seed | 1 | 100% | 0% | 0% | 0.00 |",
        "| insertion into the drawn scene | 1 | 100% | 100% | 100% | 1.00 |",
    ]
