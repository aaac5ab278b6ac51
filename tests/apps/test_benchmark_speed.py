"""The speed benchmark, and the targets for cost that can be counted without weights."""

from argparse import Namespace

import pytest
import torch

from apps.benchmark_speed import RUNS, SIDES, UNETS, count_methods, measure
from attncontrol import AttendAndExcite, create_method, method_classes
from attncontrol.families.unet import UNetFamily
from attncontrol.families.xl import XLFamily
from attncontrol.guidance.cost import guided_cost, method_cost

GIB = 2**30
FLOOR = (
    1.264  # plain sampling and, in half of the steps, the forward up to the last map and its backward to the latents
)


def family_and_size(model):
    side = SIDES[model] // 8
    return (XLFamily if model == "xl" else UNetFamily).weightless(UNETS[model], torch.float16), (side, side)


@pytest.mark.parametrize("model", ["1.5", pytest.param("xl", marks=pytest.mark.slow)])
def test_a_guided_pass_costs_every_method_as_much_as_attend_and_excite(model):
    family, size = family_and_size(model)
    operations = {}
    for name in method_classes():
        layers = create_method(name).select_layers(family.layers(size))
        operations[name] = guided_cost(family, size, layers).operations
    reference = operations["attend-and-excite"]
    assert all(count <= 1.05 * reference for count in operations.values()), operations


def test_the_arithmetic_of_half_guided_sampling_is_at_the_floor():
    family, size = family_and_size("1.5")
    found = method_cost(family, AttendAndExcite(thresholds={}), size)
    assert found.passes == (25, 25)
    assert FLOOR * 0.98 < found.arithmetic[0] == found.arithmetic[1] < FLOOR * 1.02
    assert found.low.kept_bytes < 0.14 * GIB < 0.65 * GIB > found.fast.kept_bytes


@pytest.mark.slow
def test_xl_at_1024_px_takes_little_memory_in_the_low_mode():
    family, size = family_and_size("xl")
    layers = AttendAndExcite().select_layers(family.layers(size))
    low = guided_cost(family, size, layers, low_memory=True)
    assert low.kept_bytes < 0.51 * GIB and low.peak_bytes < 1.5 * GIB


def test_all_runs_of_the_benchmark_agree(tmp_path):
    """Of two steps one is guided; diffusers' pipeline runs its further forward, image by image, in both."""
    latents, calls = {}, {}
    for run in RUNS["1.5"]:
        file = tmp_path / "latents.pt"
        arguments = {"model": "1.5", "small": True, "device": "cpu", "dtype": "float32", "size": 128, "steps": 2}
        figures = measure(Namespace(**arguments, batch=2, run=run, latents=file))
        assert figures["seconds"] > 0 and figures["passes"] == run.startswith("ours")
        calls[run], latents[run] = figures["calls"], torch.load(file)
    assert calls == {"plain": 2, "peer": 2 + 2 * 2, "ours": 2 + 1, "ours, low memory": 2 + 1}
    for run in ("ours", "ours, low memory"):
        torch.testing.assert_close(latents[run], latents["peer"], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(latents["plain"], latents["peer"], rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_every_method_is_counted_those_too_that_need_no_guided_pass(capsys):
    count_methods(Namespace(model="1.5", small=True, dtype="float32", size=128))
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:] if line.startswith("|")]
    assert [row[0] for row in rows] == list(method_classes())
    assert all(0 < float(row[4]) < 1 < float(row[5].split()[0]) for row in rows)
