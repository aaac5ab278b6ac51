"""The published defaults of all settings, and the least and the greatest number that each may be."""

import dataclasses

import pytest

from attncontrol.losses import create_method

EVERY = {
    "variant": ("default", None, None),
    "start": (0.0, None, None),
    "stop": (0.5, None, None),
    "step_size": (20.0, None, None),
    "relative_step": (None, 0, 100),
    "shared_pass": (False, None, None),
    "resolution": (None, None, None),
    "keys": ("joint", None, None),
    "layers": (None, None, None),
}
SMOOTHING = {"smoothing": (True, None, None), "kernel_size": (3, 1, 31), "sigma": (0.5, 0.01, 100)}
SOFTMAX = {"normalize_eot": (None, None, None), "softmax_scale": (100.0, 0, 10_000)}
DECAY = {"scale_range": ((1.0, 0.5), 0, 1000)}
THRESHOLDS = {"thresholds": ({0: 0.05, 0.2: 0.5, 0.4: 0.8}, 0, None), "max_refinement_steps": (20, 0, 100)}
EBAMA = {"stop": (0.52, None, None), "distance": ("cosine", None, None), "intensity_weight": (0.5, 0, 1000)}
OWN = {
    "a-star": {
        **SMOOTHING,
        **SOFTMAX,
        **DECAY,
        "stop": (1.0, None, None),
        "segregation_weight": (1.0, 0, 1000),
        "retention_weight": (1.0, 0, 1000),
        "binarization": ("max", None, None),
        "threshold": (0.5, 0, None),
        "normalization": ("resoftmax", None, None),
    },
    "attend-and-excite": {**SMOOTHING, **SOFTMAX, **DECAY, **THRESHOLDS},
    "attention-refocusing": {
        **SOFTMAX,
        "stop": (0.8, None, None),
        "step_size": (None, None, None),
        "car": (1.0, 0, 1000),
        "sar": (1.0, 0, 1000),
        "ground": (3.0, 0, 1000),
        "satisfied": (0.2, 0, None),
        "release": ("v2", None, None),
    },
    "best-start": {
        **SOFTMAX,
        **EBAMA,
        "step_size": (0.0, None, None),
        "starts": (4, 1, 64),
        "ahead": ((0.134, 0.267), 0, 0.9),
        "enough": (None, -100, 100),
        "spare": (False, None, None),
    },
    "boxdiff": {
        **SMOOTHING,
        **SOFTMAX,
        **DECAY,
        **THRESHOLDS,
        "top_fraction": (0.2, 0, None),
        "corner_width": (1, 0, 256),
    },
    "conform": {
        **SMOOTHING,
        **DECAY,
        "stop": (0.6, None, None),
        "loss": ("ntxent", None, None),
        "temperature": (0.5, 0.001, 1000),
        "previous_maps": (True, None, None),
        "anchor_step": (None, 0, None),
        "refine_at": ((0, 0.2, 0.4), 0, None),
        "refinement_steps": (20, 0, 100),
        "enough": (None, 0, 1000),
        "pieces": ("all", None, None),
        "softmax_normalize": (False, None, None),
        "softmax_normalize_attention_maps": (False, None, None),
    },
    "ebama": {**SOFTMAX, **EBAMA},
    "focus": {
        **SMOOTHING,
        "stop": (1.0, None, None),
        "step_size": (1.0, None, None),
        "relative_step": (0.01, 0, 100),
        "sigma": (0.5**0.5, 0.01, 100),
        "criterion": ("focus", None, None),
    },
    "layout-guidance": {
        "stop": (0.2, None, None),
        "step_size": (30.0, None, None),
        "threshold": (0.2, 0, None),
        "max_refinement_steps": (5, 0, 100),
    },
    "redraw": {
        "by": ("conform + syngen", None, None),
        "step_size": (0.0, None, None),
        "at": (0.8, 0, 0.999),
        "enough": (None, -100, 100),
        "tries": (3, 1, 16),
    },
    "syngen": {"include_entities": (False, None, None), "distance": ("kl", None, None)},
}


@pytest.mark.parametrize("name", OWN)
def test_defaults_and_bounds(name):
    method = create_method(name)
    found = {
        setting.name: (getattr(method, setting.name), setting.metadata["at_least"], setting.metadata["at_most"])
        for setting in dataclasses.fields(method)
    }
    assert found == EVERY | OWN[name]


def one_number(setting, default, number):
    """A value of the setting that holds this number, beside one that is surely within bounds."""
    if isinstance(default, dict):
        return {number: 1.0, 1: number}
    if isinstance(default, tuple):
        return (number, number) if setting == "scale_range" else (number,)
    return number


@pytest.mark.parametrize("name", OWN)
def test_the_bounds_themselves_are_allowed(name):
    for setting, (default, least, most) in OWN[name].items():
        for bound in (least, most):
            if bound is None or (setting, bound) == ("top_fraction", 0):  # a share of 0 has no cell
                continue
            value = one_number(setting, default, bound)
            assert create_method(name, **{setting: value}).settings()[setting] == value


@pytest.mark.parametrize(("name", "setting"), [("a-star", "threshold"), ("boxdiff", "top_fraction")])
def test_shares_reach_up_to_one(name, setting):
    assert create_method(name, **{setting: 1.0}).settings()[setting] == 1
    with pytest.raises(ValueError, match=f"{name}: {setting} must lie in 0..1"):
        create_method(name, **{setting: 1.01})
