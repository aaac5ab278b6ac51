"""Every method's loss on another device, the meta device: nothing is read there, nothing brought there twice."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attncontrol.attention.maps import AttentionMaps, LayerMap
from attncontrol.losses import create_method, method_classes
from tests.losses.inputs import context, evaluate
from tests.losses.layouts import captured, denoiser_maps
from tests.losses.test_all_methods import place

WORDS = [[2, 3], [6, (7, 8)]]


class Transfers(TorchDispatchMode):
    """Operations that take numbers from the computer's memory to the device; each would wait for all work there."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        result = func(*args, **(kwargs or {}))
        outputs = [x for x in tree_leaves(result) if isinstance(x, Tensor)]
        crossing = any(x.device.type == "cpu" and x.ndim for x in inputs) and any(x.is_meta for x in outputs)
        from_python = func is torch.ops.aten.lift_fresh.default and result.is_meta and result.ndim
        if crossing or from_python:
            self.found.append(func)
        return result


def on_device(maps):
    return AttentionMaps(
        tuple(LayerMap(m.layer, torch.empty(m.probabilities.shape, device="meta")) for m in maps.layers)
    )


@pytest.mark.parametrize("variant", ["default", "reference"])
@pytest.mark.parametrize("name", method_classes())
def test_losses_run_on_one_device_and_bring_nothing_there_twice(name, variant):
    method = create_method(name, variant=variant)
    now = place(context(WORDS, 12))
    chosen = captured(method, denoiser_maps())
    with Transfers() as transfers:
        maps = on_device(chosen)
        for index in range(3):
            transfers.found.clear()
            evaluation = evaluate(method, maps, dataclasses.replace(now, index=index))
            assert evaluation.loss.is_meta
            now = dataclasses.replace(now, carry=evaluation.carry)
    assert transfers.found == []
