import ast
import subprocess
import sys
from pathlib import Path

import pytest

from apps.mutation import __main__ as program
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
    raise ValueError(1 + 1)
'''
    assert changes(text) == []


def test_every_mutant_of_a_module_is_another_module():
    text = program.source("losses/words.py")
    plain = ast.unparse(ast.parse(text))
    texts = [ast.unparse(mutated(text, mutant.number)) for mutant in mutants(text)[::4]]
    assert len(texts) > 10
    assert plain not in texts and len(set(texts)) == len(texts)


def test_every_file_has_tests():
    assert [
        (file, test) for file in program.files() for test in program.tests_of(file) if not Path(ROOT, test).exists()
    ] == []


@pytest.mark.slow
def test_tests_see_the_mutant_and_a_loop_without_end_is_stopped(tmp_path):
    for path, text in {
        "attncontrol/__init__.py": "",
        "attncontrol/thing.py": "def double(x):\n    while x < 0:\n        x += 1\n    return 2 * x\n",
        "tests/__init__.py": "",
        "tests/test_thing.py": (
            "from attncontrol.thing import double\n\n"
            "def test_double():\n    assert double(3) == 6 and double(-2) == 0\n"
        ),
    }.items():
        tmp_path.joinpath(path).parent.mkdir(exist_ok=True)
        tmp_path.joinpath(path).write_text(text)
    program = """
from pathlib import Path
from apps.mutation.mutants import mutants, mutated
from apps.mutation.trial import import_beforehand, try_tests
path = Path("attncontrol/thing.py")
text = path.read_text()
import_beforehand(["tests/test_thing.py"])
print("unchanged", try_tests(["tests/test_thing.py"], path, None, 1).passed)
for mutant in mutants(text):
    trial = try_tests(["tests/test_thing.py"], path, mutated(text, mutant.number), 1)
    print(mutant.before, "->", mutant.after, trial.passed)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.stdout.splitlines() == [
        "unchanged True",
        "x < 0 -> x <= 0 False",
        "0 -> 1 False",
        "x += 1 -> x -= 1 False",
        "1 -> 2 True",  # from -2 to 0 in one step
        "2 * x -> 2 / x False",
        "2 -> 3 False",
    ], done.stderr
