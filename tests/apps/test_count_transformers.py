"""The table of what guided passes cost transformers."""

import sys

import pytest

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
