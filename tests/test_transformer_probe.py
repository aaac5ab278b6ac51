"""The probe of every family's maps: a latent moves its patch's queries, a token its key, and nothing else moves."""

from contextlib import contextmanager

import pytest
import torch

from attncontrol import AttentionControlPipeline
from attncontrol.guidance.guided_pass import GuidedPass
from attncontrol.prompt.align import tokenize
from tests.test_transformers import PROMPT, captured, controlled
from tests.tiny_transformers import TRANSFORMERS


@contextmanager
def unmixed(pipe):
    """Image queries and text keys of the first layer that each depend on one latent or one text state alone."""
    blocks = getattr(pipe.transformer, "blocks", getattr(pipe.transformer, "transformer_blocks", ()))
    own = [block.attn1 for block in blocks if hasattr(block, "attn1") and hasattr(block, "attn2")]
    try:
        for module in own:
            module.forward = lambda hidden_states, *_, **__: torch.zeros_like(hidden_states)
        yield
    finally:
        for module in own:
            vars(module).pop("forward", None)


def first_maps(pipe, pass_, latents, call=None):
    """The first layer's logarithmic probabilities of both rows: [rows, image queries, text keys], mean over heads."""
    pass_ = GuidedPass(pass_.family, call or pass_.call, pass_.layers, prompts=2)
    with torch.no_grad(), pass_.run(latents, [0, 1]) as (_, maps):
        return maps.layers[0].probabilities.clamp_min(1e-30).log().mean(1)


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_a_latent_moves_the_query_of_its_patch_and_a_token_its_key_and_no_other(family):
    """In joint attention all probabilities of a query may move as one: its softmax is over the other keys, too."""
    pipe = controlled(family)
    if family in ("Z-Image", "Lumina 2"):
        pipe = AttentionControlPipeline.from_pipe(TRANSFORMERS[family](refiners=0))
    of, call, layers = captured(pipe, [PROMPT, "a bear and a big red mouse"])
    pass_, tokenized = GuidedPass(of, call, layers[:1], prompts=2), tokenize(of.tokenizer, PROMPT)
    cat = tokenized.token_indices((PROMPT.index("cat"), PROMPT.index("cat") + 3))[-1]
    with unmixed(pipe):
        before = first_maps(pipe, pass_, pass_.start)
        moved = pass_.start.clone()
        if moved.ndim == 3:
            moved[0, 8 * 3 + 5] += 1
        else:
            patch = moved.shape[-1] // 8
            moved[0, :, 3 * patch : 4 * patch, 5 * patch : 6 * patch] += 1
        queries = changed(before, first_maps(pipe, pass_, moved)).any(2)
        assert queries.nonzero().tolist() == [[0, 8 * 3 + 5]]
        other = with_other_word(family, call, pass_.first_row, cat)
        keys = changed(before, first_maps(pipe, pass_, pass_.start, other)).any(1)
        assert keys.nonzero().tolist() == [[0, cat]]


def changed(before, after):
    """Which probabilities moved against the other ones of their query."""
    moves = after - before
    visible = before > -60
    rest = torch.stack([row[:, seen].median(1).values for row, seen in zip(moves, visible.any(1), strict=True)])
    return ((moves - rest[..., None]).abs() > 1e-5) & visible


def with_other_word(family, call, row, position):
    """The call with another state at a text key of a row."""
    call = {**call}
    if family == "Z-Image":
        call["cap_feats"] = [states.clone() for states in call["cap_feats"]]
        call["cap_feats"][row][position] += torch.randn(32, generator=torch.Generator().manual_seed(0))
        return call
    name = "encoder_hidden_states_t5" if family == "HunyuanDiT" else "encoder_hidden_states"
    states = call[name].clone()
    behind = {"HunyuanDiT": 77, "AuraFlow": 8, "FLUX.2": 512 - states.shape[1], "CogView 4": 1023 - states.shape[1]}
    place = position - behind.get(family, 0)
    states[row, place] += torch.randn(states.shape[2], generator=torch.Generator().manual_seed(0))
    return {**call, name: states}
