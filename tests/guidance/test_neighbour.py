"""An independent check of recorded maps: attention-map-diffusers 1.0, of the same tiny random pipelines."""

import pytest
import torch
from safetensors.torch import load_file

from tests.neighbour import PIPELINES, built, file_of, own_maps, their_maps


def check(own, theirs):
    assert own.keys() == theirs.keys()
    for path in own:
        torch.testing.assert_close(own[path], theirs[path], rtol=0, atol=1e-5)
        assert own[path].max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", PIPELINES)
def test_maps_of_every_layer_and_head_are_those_that_were_recorded(name):
    check(own_maps(built(name), name), load_file(file_of(name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", PIPELINES)
def test_maps_of_every_layer_and_head_are_those_it_captures(name):
    pytest.importorskip("attention_map_diffusers", reason="pip install attention-map-diffusers==1.0.0")
    pipe = built(name)
    own = own_maps(pipe, name)
    check(own, their_maps(pipe, own))
