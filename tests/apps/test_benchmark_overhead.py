"""Guidance costs as many operations for many images as for one."""

import pytest

from apps.benchmark_overhead import GUIDING, overhead
from attncontrol import AttentionControlPipeline


@pytest.fixture(scope="module")
def pipe():
    pipe = AttentionControlPipeline.from_pretrained("emoji")
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("name", [*GUIDING, "auto"])
def test_operations_of_a_round_do_not_grow_with_the_batch(pipe, name):
    one, many = (overhead(pipe, name, images) for images in (1, 4))
    assert many[0] <= 1.12 * one[0] <= 1.12 * (150 if name == "attend-and-excite" else 400)
    assert max(one[1], many[1]) <= 2
