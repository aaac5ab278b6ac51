"""The benchmark's prompt lists and boxes."""

import pytest

from apps.emoji.vocabulary import ANIMALS, COLOURS, OBJECTS
from apps.faithfulness.prompts import KINDS, benchmark, layout_for, read_list, sample


@pytest.mark.parametrize("kind", KINDS)
def test_the_files_are_what_the_function_makes(kind):
    assert read_list(kind) == benchmark(kind)


def test_every_pair_comes_once_in_the_benchmarks_forms():
    def parts(prompt):
        words = set(prompt.split())
        return frozenset(words & set(ANIMALS)), frozenset(words & set(OBJECTS)), words & set(COLOURS)

    animals, mixed, objects = ([parts(prompt) for prompt in read_list(kind)] for kind in KINDS)
    assert len({a for a, _, _ in animals}) == len(animals) == 66 and all(len(a) == 2 and not c for a, _, c in animals)
    assert len({(a, o) for a, o, _ in mixed}) == len(mixed) == 144 and all(len(c) == 1 for _, _, c in mixed)
    assert len({o for _, o, _ in objects}) == len(objects) == 66 and all(len(c) == 2 for _, _, c in objects)


def test_a_sample_keeps_the_order_and_depends_on_its_seed():
    prompts = read_list("objects")
    chosen = sample(prompts, 10, 3)
    assert len(set(chosen)) == 10 and chosen == sorted(chosen, key=prompts.index)
    assert chosen == sample(prompts, 10, 3) != sample(prompts, 10, 4)
    assert sample(prompts, None) == sample(prompts, 1000) == prompts


def test_boxes_are_inside_apart_and_of_every_arrangement():
    seen = set()
    for kind in KINDS:
        for prompt in read_list(kind):
            (first, second) = layout_for(prompt, ["first", "second"]).values()
            for x0, y0, x1, y1 in (first, second):
                assert 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1 and (x1 - x0) * (y1 - y0) > 0.16
            gaps = [second[0] - first[2], first[0] - second[2], second[1] - first[3], first[1] - second[3]]
            assert max(gaps) > 0
            seen.add(gaps.index(max(gaps)))
    assert seen == {0, 1, 2, 3}
