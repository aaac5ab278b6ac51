import subprocess
import sys

import pytest

from attncontrol.arguments import LARGEST_SEED, check_side, closest, nearest, read_assignment, read_seeds, slug


@pytest.mark.parametrize("side", [8, 64, 1024])
def test_multiples_of_8_are_sides(side):
    assert check_side(side) == side


@pytest.mark.parametrize(("side", "near"), [(100, 96), (1, 8), (0, 8), (-8, 8), (1023, 1024)])
def test_other_sides_are_refused_with_the_nearest_one(side, near):
    with pytest.raises(ValueError, match=f"{side} is not a multiple of 8; the nearest is {near}"):
        check_side(side)


def test_seeds_are_separated_by_commas():
    assert read_seeds(" 3, 0,") == [3, 0]
    assert read_seeds(str(LARGEST_SEED)) == [LARGEST_SEED]


@pytest.mark.parametrize("text", ["", ",", "x", "-1", "1.5", str(LARGEST_SEED + 1), "9" * 5000])
def test_what_is_no_seed_is_refused(text):
    with pytest.raises(ValueError, match="must be whole numbers from 0 to"):
        read_seeds(text)


def test_no_seed_may_come_twice():
    with pytest.raises(ValueError, match="names a seed twice"):
        read_seeds("1,01")


@pytest.mark.parametrize(
    ("text", "value"),
    [("a=1", 1), ("a=none", None), ("a=1,0.5", [1, 0.5]), ('a={"0": 1}', {"0": 1}), ("a=kl", "kl"), ("a=x,y", "x,y")],
)
def test_an_assignment_has_a_value_of_json_or_text(text, value):
    assert read_assignment(text) == ("a", value)


@pytest.mark.parametrize("text", ["a", "=1", " =1"])
def test_an_assignment_needs_a_key_and_an_equals_sign(text):
    with pytest.raises(ValueError, match="must have the form key=value"):
        read_assignment(text)


def test_an_assignment_nested_too_deeply_is_a_text():
    assert read_assignment("a=" + "[" * 100_000)[1].startswith("[[")


def test_a_wrong_name_is_answered_with_the_nearest_one_and_all():
    assert nearest("syngn", ["conform", "syngen"]) == ", did you mean 'syngen'? There are: conform, syngen"
    assert nearest("zzz", ["conform", "syngen"]) == ". There are: conform, syngen"
    assert closest("zzz", ["conform"]) is None


def test_a_slug_names_files_everywhere():
    assert slug("A red/cat: conform + 0.5*syngen") == "a-red-cat-conform+0.5xsyngen"
    assert slug("一只猫") == "image" and len(slug("cat " * 100)) <= 60


def test_the_rules_are_read_without_torch():
    code = "import sys, attncontrol.arguments; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
