"""The table of what guided passes cost transformers."""

import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from apps import count_transformers

SMALL = {"num_layers": 3, "num_single_layers": 1, "num_attention_heads": 1}


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [[], ["--model", "FLUX.1 dev"]])
def test_the_table_has_a_row_for_every_model_or_method(arguments, monkeypatch, capsys):
    small = {"FLUX.1 dev": ("FluxTransformer2DModel", SMALL), "Chroma": ("ChromaTransformer2DModel", SMALL)}
    monkeypatch.setattr(count_transformers, "MODELS", small)
    monkeypatch.setattr(sys, "argv", ["count_transformers.py", *arguments])
    count_transformers.main()
    head, _, *rows = capsys.readouterr().out.splitlines()
    first = [row.split("|")[1].strip() for row in rows]
    assert first == (list(count_transformers.method_classes()) if arguments else list(small))
    assert all(row.count("|") == head.count("|") for row in rows)
    for row in rows:
        kept, kept_low, most, most_low = (float(cell) for cell in row.split("|")[-5:-1])
        assert most > kept > kept_low > 0 and most > most_low > kept_low


def test_what_is_measured_is_a_forward_a_pass_and_one_that_recomputes(monkeypatch):
    def operations(work, device):
        with FlopCounterMode(display=False) as counter:
            work()
        return counter.get_total_flops()

    monkeypatch.setattr(count_transformers, "timed", operations)
    family = count_transformers.KNOWN["FluxTransformer2DModel"].weightless(SMALL, torch.float32)
    forward, fast, low = count_transformers.measure_model(family, "cpu", (8, 8))
    assert 0 < forward < fast < low
