import ast
import subprocess
import sys
from pathlib import Path

import pytest

from apps.mutation import __main__ as program
from apps.mutation.lines import lines_around
from apps.mutation.mutants import mutants, mutated
from tests.documents import ROOT


def changes(text):
    return [(mutant.before, mutant.after) for mutant in mutants(text)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a < b", [("a < b", "a <= b")]),
        ("x = a * b - 1", [("a * b - 1", "a * b + 1"), ("a * b", "a / b"), ("1", "2")]),
        ("x.amax(-1)", [("x.amax(-1)", "pass"), ("x.amax(-1)", "x.amin(-1)"), ("-1", "1"), ("1", "2")]),
        ("y.detach() and 0.5", [("y.detach() and 0.5", "y.detach() or 0.5"), ("y.detach()", "y"), ("0.5", "1.0")]),
        ("x = y if z else w", [("y if z else w", "y if not z else w")]),
        ("x = math.sqrt(y)", [("math.sqrt(y)", "y")]),
        ("f(int | list[str] | None, a | b)", [("f(int | list[str] | None, a | b)", "pass"), ("a | b", "a & b")]),
        ("total += not a", [("total += not a", "total -= not a"), ("not a", "a")]),
    ],
)  # fmt: skip
def test_what_is_changed(text, expected):
    assert changes(text) == expected


def test_what_only_speaks_is_left_alone():
    text = '''
"""Adds 1 + 1."""
@decorated(1 + 1)
def add(a: int | None = None) -> int | None:
    """Adds 1 < 2."""
    if TYPE_CHECKING:
        import x
    warnings.warn(f"{1 + 1}")
    for x, y in zip(a, b, strict=True):
        pass
    raise ValueError(1 + 1)
'''
    assert changes(text) == []


def test_every_mutant_of_a_module_is_another_module():
    text = program.source("losses/words.py")
    plain = ast.unparse(ast.parse(text))
    texts = [ast.unparse(mutated(text, mutant.number)) for mutant in mutants(text)[::4]]
    assert len(texts) > 10
    assert plain not in texts and len(set(texts)) == len(texts)


def test_the_modules_of_tests_are_there():
    assert len(program.test_modules()) > 20
    assert [module for module in program.test_modules() if not Path(ROOT, module).is_file()] == []


def test_what_stands_at_a_line():
    text = """
LIMIT = 1

def clipped(x, most=2):
    if (
        x > most
    ):
        return [
            most
        ]
    else:
        x = 1
    return x
"""
    heads = [lines_around(text, line) for line in range(1, 14)]
    clipped = [
        None,
        None,
        None,
        None,
        *[range(5, 8)] * 3,
        *[range(8, 11)] * 3,
        range(5, 8),
        range(12, 13),
        range(13, 14),
    ]
    assert heads == clipped


@pytest.mark.slow
def test_the_tests_of_a_line_see_its_mutant_and_a_loop_without_end_is_stopped(tmp_path):
    for path, text in {
        "attncontrol/__init__.py": "",
        "attncontrol/thing.py": (
            "def double(x):\n    while x < 0:\n        x += 1\n    return 2 * x\n\n\ndef unused():\n    return 7\n"
        ),
        "tests/__init__.py": "",
        "tests/test_thing.py": (
            "from attncontrol.thing import double\n\n"
            "def test_both():\n    assert double(3) == 6 and double(-2) == 0\n\n"
            "def test_positive():\n    assert double(1) == 2\n\n"
            "def test_nothing():\n    pass\n"
        ),
    }.items():
        tmp_path.joinpath(path).parent.mkdir(exist_ok=True)
        tmp_path.joinpath(path).write_text(text)
    program = """
from pathlib import Path
from apps.mutation.lines import Lines, lines_around
from apps.mutation.lines import lines_around
from apps.mutation.mutants import mutants, mutated
from apps.mutation.trial import import_beforehand, try_items, try_tests, with_collected
path = Path("attncontrol/thing.py")
text = path.read_text()
import_beforehand(["tests/test_thing.py"])
lines = Lines(Path("lines.json"))
lines.trace(["tests/test_thing.py"], [str(path)])
lines.trace(["tests/test_thing.py"], [str(path)])
for mutant in mutants(text):
    tests = [name for _, name in lines.tests(str(path), lines_around(text, mutant.line))]
    names = sorted(test.partition("::")[2] for test in tests)
    passed = try_tests(tests, path, mutated(text, mutant.number), 1).passed if tests else None
    print(mutant.before, "->", mutant.after, *names, passed)


def inside(items):
    trials = [try_items(list(items.values()), path, mutated(text, mutant.number), 1) for mutant in mutants(text)]
    Path("inside").write_text(" ".join(str(trial.passed) for trial in trials))


with_collected(["tests/test_thing.py"], inside)
print(Path("inside").read_text())
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [
        "which lines tests/test_thing.py runs",  # once
        "x < 0 -> x <= 0 test_both test_positive False",
        "0 -> 1 test_both test_positive False",
        "x += 1 -> x -= 1 test_both False",
        "1 -> 2 test_both True",  # from -2 to 0 in one step
        "2 * x -> 2 / x test_both test_positive False",
        "2 -> 3 test_both test_positive False",
        "7 -> 8 None",
        "False False False True False False True",  # in place of the code of the same functions
    ], done.stderr
