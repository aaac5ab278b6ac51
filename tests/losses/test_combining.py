"""Methods added up, as one line of text, and settings that a sum does not have."""

import pytest

from attncontrol.losses.combining import (
    control_name,
    control_names,
    control_to_json,
    parse_terms,
    resolve_control,
    with_settings,
)


@pytest.mark.parametrize("control", ["syngen", "attend-and-excite + 0.5*syngen", "2*conform + syngen"])
def test_a_sum_is_named_as_it_was_given(control):
    assert control_name(resolve_control(control)) == control
    assert control_name(resolve_control(control_to_json(resolve_control(control)))) == control


def test_no_method_is_plain():
    assert control_name(resolve_control(None)) == "plain"


def test_controls_of_the_same_methods_are_named_as_they_were_given():
    tuned = {"auto": [{"method": "conform", "stop": 0.2}]}
    given = ["1.0*syngen", "auto", "conform"]
    controls = [resolve_control(text, tuned) for text in given]
    assert control_names(controls, given) == ["syngen", "auto", "conform"]
    assert control_names(controls[:2], given[:2]) == ["syngen", "conform"]


def test_weights_and_names():
    assert parse_terms(" .5 * syngen+ conform+1e-2*a-star") == [(0.5, "syngen"), (1.0, "conform"), (0.01, "a-star")]


def test_a_setting_holds_for_every_part_that_has_it_or_for_the_named_one():
    methods = resolve_control("syngen + 0.5*conform")
    both = with_settings(methods, {"stop": "0.3"}).parts
    assert [(weight, method.stop) for weight, method in both] == [(1.0, 0.3), (0.5, 0.3)]
    one = with_settings(methods, {"conform.stop": 0.3}).parts
    assert [(weight, method.stop) for weight, method in one] == [(1.0, 0.5), (0.5, 0.3)]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("stp", r"no setting 'stp', did you mean 'stop'\? There are: variant, start, stop, .*temperature"),
        ("syngen.temperature", r"no setting 'syngen.temperature'.* There are: syngen.variant, .*conform.temperature"),
    ],
)
def test_a_setting_that_no_part_has_comes_with_those_there_are(key, message):
    with pytest.raises(ValueError, match=message):
        with_settings(resolve_control("syngen + conform"), {key: 1})
