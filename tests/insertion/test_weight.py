import math

import pytest

from attncontrol.insertion.weight import find_root, find_weight


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x - 1.13,
        lambda x: math.exp(40 * (x - 1.15)) - 1,
        lambda x: math.tanh(60 * (x - 1.02)),
        lambda x: (x - 1.07) ** 3,
        lambda x: 1.19 - x,
    ],
)
def test_the_root_is_as_near_as_asked_and_found_in_few_evaluations(function):
    asked = []

    def counted(x):
        asked.append(x)
        return function(x)

    found = find_root(counted, (1.0, 1.2), (function(1.0), function(1.2)), 0.001)
    assert function(found - 0.001) * function(found + 0.001) < 0
    assert len(asked) <= 25 and all(1 <= x <= 1.2 for x in asked)


def test_the_weight_balances_the_text_between_both_images():
    assert find_weight(lambda gamma: gamma**2) == pytest.approx(1.05**0.5, abs=0.01)


def test_the_nearer_end_is_taken_with_a_warning_where_nothing_balances():
    with pytest.warns(UserWarning, match=r"gamma 1.2 is the nearest to a ratio of 1.05: .* 0.5 to 0.6 times"):
        assert find_weight(lambda gamma: gamma / 2) == 1.2
    with pytest.warns(UserWarning, match="gamma 1 is"):
        assert find_weight(lambda gamma: gamma * 2) == 1.0


def test_the_published_code_stops_there():
    with pytest.raises(ValueError, match="Give a number"):
        find_weight(lambda gamma: gamma / 2, strict=True)


def test_a_ratio_that_is_no_number_is_no_weight():
    with pytest.raises(ValueError, match="nan"):
        find_weight(lambda gamma: math.nan)
