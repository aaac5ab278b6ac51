"""Rows made to break things: each is refused with a message that says where and what, or is an ordinary prompt."""

import json

import pytest

from attncontrol.batch import Plan
from tests.batch.stand_in import run

NUL, ESC, BELL, DEL, C1 = (chr(n) for n in (0, 27, 7, 127, 0x9B))

REFUSED = [
    ({"id": "../../etc/passwd"}, "id", "cannot name files"),
    ({"id": "/etc/passwd"}, "id", "cannot name files"),
    ({"id": "..\\..\\windows"}, "id", "cannot name files"),
    ({"id": "C:evil"}, "id", "cannot name files"),
    ({"id": "a/b"}, "id", "cannot name files"),
    ({"id": ".hidden"}, "id", "cannot name files"),
    ({"id": "-rf"}, "id", "cannot name files"),
    ({"id": "dot."}, "id", "cannot name files"),
    ({"id": ""}, "id", "cannot name files"),
    ({"id": " "}, "id", "cannot name files"),
    ({"id": "a\nb"}, "id", "cannot name files"),
    ({"id": f"a{NUL}.png"}, "id", "cannot name files"),
    ({"id": "ﬁle"}, "id", "cannot name files"),
    ({"id": "😀"}, "id", "cannot name files"),
    ({"id": "a‮gnp"}, "id", "cannot name files"),
    ({"id": "a" * 5000}, "id", "5000 characters"),
    ({"id": ["a"]}, "id", "must be text"),
    ({"id": True}, "id", "must be text"),
    ({"prompt": "x" * 20_000}, "prompt", "20000 characters"),
    ({"prompt": ""}, "prompt", "empty"),
    ({"prompt": " \t\n"}, "prompt", "empty"),
    ({"prompt": None}, "prompt", "must be text"),
    ({"prompt": 7}, "prompt", "must be text"),
    ({"prompt": ["a", "b"]}, "prompt", "must be text"),
    ({"prompt": {"a": 1}}, "prompt", "must be text"),
    ({"prompt": f"a{NUL}b"}, "prompt", "U+0000"),
    ({"prompt": f"{ESC}[2Jcat"}, "prompt", "U+001B"),
    ({"prompt": f"a {BELL}"}, "prompt", "U+0007"),
    ({"prompt": f"a {DEL}"}, "prompt", "U+007F"),
    ({"prompt": f"a {C1}31m"}, "prompt", "U+009B"),
    ({"prompt": "a \ud800"}, "prompt", "UTF-8"),
    ({"negative_prompt": 3}, "negative_prompt", "must be text"),
    ({"negative_prompt": f"x{NUL}"}, "negative_prompt", "U+0000"),
    ({"seed": -2}, "seed", "greater than or equal to 0"),
    ({"seed": 1.5}, "seed", "whole number"),
    ({"seed": "abc"}, "seed", "integer"),
    ({"seed": True}, "seed", "whole number"),
    ({"seed": 2**64}, "seed", "less than or equal"),
    ({"seed": None}, "seed", "integer"),
    ({"seeds": []}, "seeds", "at least 1"),
    ({"seeds": [1, 1]}, "seeds", "same seed"),
    ({"seeds": [1, -5]}, "seeds.1", "greater than or equal to 0"),
    ({"seeds": 3}, "seeds", "list"),
    ({"seeds": list(range(10_001))}, "seeds", "at most"),
    ({"seeds": [1], "seed": 2}, "seeds", "exclude"),
    ({"images_per_prompt": 0}, "images_per_prompt", "greater than or equal to 1"),
    ({"images_per_prompt": 10**9}, "images_per_prompt", "less than or equal"),
    ({"images_per_prompt": 2, "seed": 2**63 - 1}, "images_per_prompt", "last seed"),
    ({"steps": 0}, "steps", "greater than or equal to 1"),
    ({"steps": 10**6}, "steps", "less than or equal"),
    ({"steps": "many"}, "steps", "integer"),
    ({"steps": [20]}, "steps", "integer"),
    ({"guidance_scale": "high"}, "guidance_scale", "number"),
    ({"guidance_scale": "nan"}, "guidance_scale", "greater than or equal to 0"),
    ({"guidance_scale": "inf"}, "guidance_scale", "less than or equal to 100"),
    ({"guidance_scale": -3}, "guidance_scale", "greater than or equal to 0"),
    ({"width": 0}, "width", "greater than or equal to 8"),
    ({"width": -512}, "width", "greater than or equal to 8"),
    ({"width": 513}, "width", "multiple of 8"),
    ({"width": "nan"}, "width", "integer"),
    ({"width": 1e300}, "width", "not 1e+300"),
    ({"height": 10**9}, "height", "less than or equal"),
    ({"height": "512px"}, "height", "integer"),
    ({"control": "+".join(["syngen"] * 50_000)}, "control", "more than 10000 characters"),
    ({"control": [["syngen"]] * 50_000}, "control", "more than 10000 characters"),
    ({"control": "atend-and-excite"}, "control", "did you mean 'attend-and-excite'"),
    ({"control": 3}, "control", "control"),
    ({"control": {}}, "control", "'method'"),
    ({"control": {"method": "syngen", "stepsize": 3}}, "control", "did you mean 'step_size'"),
    ({"control": {"method": "syngen", "step_size": "big"}}, "control", "step_size"),
    ({"control": {"method": "syngen", "step_size": -1}}, "control", "step_size"),
    ({"control": {"method": "syngen", "weight": "x"}}, "control", "weight"),
    ({"control": {"method": "syngen", "weight": -1}}, "control", "weight"),
    ({"control": [["syngen", [[]]], 4]}, "control", "control"),
    ({"control": "boxdiff"}, "layout", "needs one"),
    ({"subjects": "cat"}, "subjects", "list"),
    ({"subjects": []}, "subjects", "list"),
    ({"subjects": ["unicorn"]}, "subjects", "not in the prompt"),
    ({"subjects": ["cta"]}, "subjects", "did you mean 'cat'"),
    ({"subjects": [0]}, "subjects", "token index"),
    ({"subjects": [[["a", ["b"]]]]}, "subjects", "a subject is"),
    ({"subjects": [{"cat": 1}]}, "subjects", "neither a word"),
    ({"layout": 7}, "layout", "a layout is a dict"),
    ({"layout": {}}, "layout", "empty"),
    ({"layout": {"cat": [0, 0, 1]}}, "layout", "4 numbers"),
    ({"layout": {"cat": [1, 1, 0, 0]}}, "layout", "inverted"),
    ({"layout": {"cat": [0, 0, 512, 512]}}, "layout", "outside"),
    ({"layout": {"cat": ["a", 0, 1, 1]}}, "layout", "finite numbers"),
    ({"layout": "/etc/passwd"}, "layout", ".json"),
    ({"layout": "missing.json"}, "layout", "cannot read"),
    ({"layout": {"cat": f"a{NUL}.png"}}, "layout", "no file name"),
    ({"metadata": [1]}, "metadata", "mapping"),
    ({"metadata": {"a": "x" * 50_000}}, "metadata", "at most"),
    ({"stepz": 3}, "stepz", "did you mean 'steps'"),
    ({"controls": "syngen"}, "controls", "did you mean 'control'"),
    ({"x" * 30_000: 1}, "metadata", "at most"),
]  # fmt: skip
ACCEPTED = [
    "a cat 😀 and a 🐶",
    "قطة و كلب",
    "חתול אדום",
    "a ‮tac‬ and a dog",
    "猫と犬",
    "e\u0301\u0301\u0301 cat",
    "'; DROP TABLE images; --",
    "$(touch owned) `id` %s {} \\x00",
    "<script>alert(1)</script>",
    "../../../etc/passwd",
    "a\tcat\nand a dog",
    "a " * 4000,
]


pytestmark = pytest.mark.filterwarnings("ignore:.*no effect here:UserWarning")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    path = tmp_path_factory.mktemp("hostile") / "hostile.jsonl"
    rows = [{"prompt": "a cat", **row} for row, _, _ in REFUSED] + [{"prompt": prompt} for prompt in ACCEPTED]
    lines = [json.dumps(row) for row in rows]
    lines.append(json.dumps({"prompt": "x" * 10_000_000}))
    lines += ['{"prompt": "a", "width": NaN}', "{", "null", "[]", "\x00", '{"prompt": "\\']
    path.write_bytes(("\n".join(lines) + "\n").encode("utf-8") + b'{"prompt": "\xff\xfe"}\n')
    return path


def test_every_hostile_row_has_a_clear_message(hostile):
    found = []
    assert Plan([hostile]).check(found.append) == len(ACCEPTED)
    first = {problem.line: problem for problem in reversed(found)}
    for line, (row, key, words) in enumerate(REFUSED, 1):
        named = [p for p in found if p.line == line and (key is None or p.key == key)]
        assert any(words in p.message for p in named), (row, first.get(line))
    broken = range(len(REFUSED) + len(ACCEPTED) + 1, len(REFUSED) + len(ACCEPTED) + 9)
    assert set(first) == {*range(1, len(REFUSED) + 1), *broken} and len(first) >= 60
    for problem in found:
        assert len(str(problem)) < 1500 and str(problem).replace("\n", " ").isprintable()


def test_what_is_left_runs_and_stays_in_its_folder(hostile, tmp_path):
    before = sorted(hostile.parent.iterdir())
    counts = run([hostile], tmp_path / "out", skip_invalid=True)
    assert counts.made == len(ACCEPTED) and not counts.failures
    names = [path.name for path in (tmp_path / "out" / "images").iterdir()]
    assert len(names) == 2 * len(ACCEPTED) and all(name.isascii() and len(name) < 100 for name in names)
    assert sorted(tmp_path.iterdir()) == [tmp_path / "out"] and sorted(hostile.parent.iterdir()) == before
    lines = (tmp_path / "out" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    assert sorted(json.loads(line)["prompt"] for line in lines) == sorted(ACCEPTED)
