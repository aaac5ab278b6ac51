import json

import pytest

from attncontrol.insertion import AddIt
from attncontrol.models import insertion_settings


def test_the_published_settings_at_the_published_number_of_steps():
    plan = AddIt(variant="reference").plan(30)
    assert (plan.joint, plan.single, plan.transfer, plan.blend, plan.weigh) == (11, 21, 2, (15,), 5)
    plan = AddIt.for_pictures().plan(30)
    assert (plan.transfer, plan.blend, plan.weigh, plan.settle) == (4, (18,), None, 27)


def test_windows_go_with_the_number_of_steps_but_not_in_the_reference():
    plan = AddIt().plan(60)
    assert (plan.joint, plan.single, plan.transfer, plan.blend, plan.weigh) == (22, 42, 4, (30,), 10)
    assert AddIt(variant="reference").plan(60).single == 21


def test_settings_survive_json():
    settings = AddIt(gamma=1.2, blend=(0.4, 0.8))
    assert AddIt(**json.loads(json.dumps(settings.to_json()))) == settings


def test_the_bundled_models_own_settings_can_be_used():
    own = insertion_settings("emoji-flux")
    assert set(own) == {"drawn", "pictures"}
    assert AddIt(**own["drawn"]).gamma > 1 < AddIt.for_pictures(**own["pictures"]).gamma


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 0}, "gamma must be 'auto' or a number above 0"),
        ({"gamma": "automatic"}, "gamma must be one of 'auto', not 'automatic'"),
        ({"gamma": True}, "gamma must be 'auto' or a number"),
        ({"variant": "published"}, "variant must be one of 'default', 'reference'"),
        ({"transfer": 2}, "transfer must be at least 0 and at most 1, not 2"),
        ({"blend": (0.5, 7)}, "blend must be at least 0 and at most 1"),
        ({"transfer": 0.3, "blend": (0.2,)}, "blend at 0.2 lies before transfer at 0.3"),
        ({"joint_stop": 0.1}, "gamma='auto' is found in joint blocks"),
        ({"inversion": "ddim"}, "inversion must be one of 'fixed-point', 'noise'"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AddIt(**settings)
