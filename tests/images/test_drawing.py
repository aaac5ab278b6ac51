"""Drawing one image: what is told of its steps."""

import pytest

from attncontrol import AttentionControlPipeline, Conform, MethodSum, Redraw
from attncontrol.cli.loading import step_progress
from attncontrol.images.drawing import Request, draw
from attncontrol.images.sampling import Sampling

PROMPT = "a black crown and a red balloon"


@pytest.mark.parametrize(
    ("control", "steps"),
    [(MethodSum(), [3]), (1.0 * Conform(refine_at=()), [3]), (1.0 * Redraw(tries=3, at=0.4), [3, 3, 3])],
)
def test_the_steps_of_further_pictures_are_told_when_they_begin(control, steps):
    pipe = AttentionControlPipeline.from_pretrained("emoji")
    pipe.set_progress_bar_config(disable=True)
    told = []
    with step_progress(1, 3) as advance:
        drawn = draw(
            pipe,
            Request("emoji", PROMPT, Sampling(3, 3.0)),
            control,
            0,
            lambda more: (told.append(more), advance(more)),
        )
    expected = [more for number, count in enumerate(steps) for more in [count if number else 0, *[0] * (count - 1)]]
    assert told == expected and 3 + sum(told) == len(told)
    assert drawn.record is None or len(drawn.record.tries) == (3 if len(steps) == 3 else 0)
