import dataclasses
import math
import textwrap

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attncontrol.attention.layers import Layer
from attncontrol.losses import AStar, AttendAndExcite, Conform, Ebama, MethodSum, SynGen, create_method, method_classes
from attncontrol.losses.base import at_iteration
from tests.losses.inputs import context

COUNTS = st.integers(1, 200)


def window(method, count):
    """The iterations that the method guides."""
    return [i for i in range(count) if method.guides(context(index=i, count=count))]


@pytest.mark.parametrize(
    ("start", "stop", "count", "expected"),
    [
        (0, 0.5, 50, range(25)),
        (0, 0.5, 51, range(25)),
        (0, 0.6, 51, range(30)),
        (0, 0.52, 51, range(26)),
        (0, 1, 51, range(51)),
        (0.2, 0.4, 10, range(2, 4)),
        (0.3, 0.3, 10, []),
        (0, 0, 10, []),
        (0, 0.01, 10, range(1)),
        (0.95, 1, 10, range(9, 10)),
        (0, 0.5, 1, range(1)),
    ],
)
def test_window(start, stop, count, expected):
    assert window(SynGen(start=start, stop=stop), count) == list(expected)


@given(COUNTS, st.integers(0, 200))
def test_a_fraction_of_the_iterations_is_that_many_iterations(count, steps):
    assert len(window(SynGen(stop=min(steps / count, 1)), count)) == min(steps, count)


@given(COUNTS, st.floats(0, 1))
def test_two_windows_that_meet_cover_every_iteration_once(count, border):
    first, second = window(SynGen(stop=border), count), window(SynGen(start=border, stop=1), count)
    if 0 < border < 1 and int(border * count + 1e-6) >= 1:
        assert first + second == list(range(count))


@pytest.mark.parametrize("bounds", [(-0.1, 0.5), (0.6, 0.5), (0, 1.1), (0, math.nan), ("0", 0.5)])
def test_a_window_that_makes_no_sense(bounds):
    with pytest.raises(ValueError, match="syngen: need 0 <= start <= stop <= 1"):
        SynGen(start=bounds[0], stop=bounds[1])


@pytest.mark.parametrize(
    ("cls", "setting", "value"),
    [
        (AttendAndExcite, "scale_range", (1.0, -0.5)),
        (AttendAndExcite, "thresholds", {0: math.nan}),
        (AttendAndExcite, "thresholds", {-0.1: 0.5}),
        (AttendAndExcite, "kernel_size", 0),
        (Conform, "refine_at", (0, math.inf)),
        (Conform, "anchor_step", -1),
        (Conform, "temperature", 0),
        (Conform, "refinement_steps", -1),
        (AStar, "sigma", 0),
        (AStar, "retention_weight", -1.0),
        (Ebama, "intensity_weight", "0.5"),
    ],
)
def test_numbers_that_make_no_sense(cls, setting, value):
    with pytest.raises(ValueError, match=f"{cls.name}: {setting} must be finite and at least"):
        cls(**{setting: value})


@pytest.mark.parametrize("cls", method_classes().values())
def test_a_setting_beyond_its_ceiling_is_refused(cls):
    ceilings = {f.name: f.metadata["at_most"] for f in dataclasses.fields(cls) if f.metadata["at_most"] is not None}
    assert ceilings
    for name, most in ceilings.items():
        for number in (most + 1, 10**5000):
            value = (1.0, number) if name == "scale_range" else number
            with pytest.raises(ValueError, match=f"{cls.name}: {name} must be finite and .*at most {most:g}"):
                cls(**{name: value})


@pytest.mark.parametrize("step_size", [-1, math.inf, math.nan, "20"])
def test_a_step_size_that_makes_no_sense(step_size):
    with pytest.raises(ValueError, match="a-star: step_size must be finite and not negative"):
        AStar(step_size=step_size)


def test_a_variant_that_does_not_exist():
    with pytest.raises(ValueError, match="variant must be one of 'default', 'reference', not 'paper'"):
        Ebama(variant="paper")


@pytest.mark.parametrize(
    ("position", "count", "expected"),
    [(0, 50, 0), (0.2, 50, 10), (0.2, 51, 10), (0.4, 51, 20), (0.999, 50, 49), (1, 50, 1), (10, 50, 10), (7, 5, 7)],
)
def test_schedule_keys_are_fractions_below_one_and_iterations_from_one_on(position, count, expected):
    assert at_iteration(position, count) == expected


@given(COUNTS)
def test_decayed_step_size(count):
    method = AttendAndExcite(step_size=7)
    sizes = [method.decayed_step_size(context(index=i, count=count)) for i in range(count)]
    assert sizes[0] == 7
    assert sizes == sorted(sizes, reverse=True)
    if count > 1:
        assert sizes[-1] == pytest.approx(7 * math.sqrt(0.5))
    level = AttendAndExcite(step_size=7, scale_range=(1.0, 1.0))
    assert level.decayed_step_size(context(index=count // 2, count=count)) == 7


def test_methods_add_up_with_their_weights():
    first, second, third = AttendAndExcite(), SynGen(), Conform()
    assert (first + 0.5 * second).parts == ((1.0, first), (0.5, second))
    assert (first + second + third).parts == ((1.0, first), (1.0, second), (1.0, third))
    assert (first + (second + third)).parts == (first + second + third).parts
    assert (2 * (first + 0.5 * second)).parts == ((2.0, first), (1.0, second))
    assert (first * 0).parts == ((0, first),)
    assert sum([first, second * 3], MethodSum()).parts == ((1.0, first), (3, second))


@pytest.mark.parametrize("weight", [-1, math.nan, math.inf, "1"])
def test_a_weight_that_makes_no_sense(weight):
    with pytest.raises(ValueError, match="the weight of syngen must be finite and not negative"):
        weight * SynGen() if not isinstance(weight, str) else MethodSum(((weight, SynGen()),))


def test_only_methods_can_be_added():
    for other in ("syngen", 1, None):
        with pytest.raises(TypeError, match="unsupported operand"):
            MethodSum() + other


def test_the_example_of_the_docstring():
    from attncontrol import losses, prompt
    from attncontrol.attention import layers, maps

    code = textwrap.dedent(losses.Method.__doc__.split("positions alone:\n\n")[1].split("\n\n    `Entity`")[0])
    names = {**vars(losses), **vars(layers), **vars(maps), **vars(prompt)}
    exec(code, names)
    grad = names["attention"].grad
    assert grad.isfinite().all() and grad[..., 1:8].any() and not grad[..., 8:].any()


def test_the_table_of_methods():
    classes = method_classes()
    assert {"a-star", "attend-and-excite", "conform", "ebama", "syngen"} <= classes.keys()
    assert list(classes) == sorted(classes)


@pytest.mark.parametrize("name", method_classes())
def test_every_method_describes_itself(name):
    cls = method_classes()[name]
    assert cls.name == name
    assert cls.summary.endswith(".")
    assert "arXiv" in cls.paper
    for field in dataclasses.fields(cls):
        assert field.metadata["help"]
    assert cls() == create_method(name) == create_method(name, **cls().settings())
    assert cls(variant="reference").variant == "reference"
    with pytest.raises(dataclasses.FrozenInstanceError):
        cls().step_size = 1


def test_unknown_names_come_with_the_nearest():
    with pytest.raises(ValueError, match="unknown method 'synngen', did you mean 'syngen'"):
        create_method("synngen")
    with pytest.raises(ValueError, match=r"syngen has no setting 'step-size', did you mean 'step_size'\?"):
        create_method("syngen", **{"step-size": 1})
    with pytest.raises(ValueError, match="There are: variant, start, stop, step_size"):
        create_method("syngen", qqq=1)


def test_settings_as_json_has_them():
    method = create_method("attend-and-excite", thresholds={"0": 0.1, "0.4": 0.5}, resolution=[8, 16], stop="0.25")
    assert method == AttendAndExcite(thresholds={0.0: 0.1, 0.4: 0.5}, resolution=(8, 16), stop=0.25)
    assert create_method("conform", refine_at=[0, 10]) == Conform(refine_at=(0, 10))


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("syngen", "step_size", "far"),
        ("syngen", "distance", "l2"),
        ("conform", "refinement_steps", 1.5),
        ("conform", "loss", 3),
        ("a-star", "smoothing", "perhaps"),
        ("attend-and-excite", "thresholds", [0.5]),
    ],
)
def test_settings_of_a_wrong_type(name, setting, value):
    with pytest.raises(ValueError, match=f"{name}: {setting} cannot be"):
        create_method(name, **{setting: value})


def layers(*sizes, cross=True):
    return [Layer(f"down_blocks.0.attn{i}", "down", cross, size) for i, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "resolution", "expected"),
    [
        ([(64, 64), (32, 32), (16, 16), (8, 8)], None, (16, 16)),
        ([(96, 96), (48, 48), (24, 24), (12, 12)], None, (24, 24)),
        ([(64, 96), (32, 48), (16, 24), (8, 12)], None, (16, 24)),
        ([(8, 8), (4, 4)], None, (8, 8)),
        ([(6, 4), (3, 2)], None, (6, 4)),
        ([(64, 64), (32, 32), (16, 16)], 32, (32, 32)),
        ([(64, 96), (32, 48)], (32, 48), (32, 48)),
    ],
)
def test_which_layers_are_captured(sizes, resolution, expected):
    method = SynGen(resolution=resolution)
    everything = [*layers(*sizes), *layers(*sizes, cross=False)]
    chosen = method.select_layers(everything)
    assert {layer.size for layer in chosen} == {expected}
    assert all(layer.is_cross for layer in chosen)
    assert method.map_size(everything) == expected


@pytest.mark.parametrize("resolution", [8, (48, 32)])
def test_a_resolution_that_no_layer_has(resolution):
    with pytest.raises(ValueError, match=r"there are 32x48, 64x96\. Set resolution"):
        SynGen(resolution=resolution).select_layers(layers((64, 96), (32, 48)))


def test_maps_too_small_to_guide():
    with pytest.raises(ValueError, match="too small to guide"):
        SynGen().select_layers(layers((2, 3), (1, 1)))


def test_a_layout_method_without_a_layout():
    for cls in method_classes().values():
        if cls.needs_layout:
            with pytest.raises(ValueError, match=f"{cls.name} needs a layout"):
                cls().check(context([[2]]))
