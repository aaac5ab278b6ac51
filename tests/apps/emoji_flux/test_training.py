"""The training of the bundled FLUX at toy size. The trained model is judged by the gate and the benchmark."""

import copy

import numpy as np
import pytest
import torch
from diffusers import FluxPipeline
from diffusers.training_utils import set_seed
from safetensors.torch import load_file

from apps.emoji.vocabulary import COLOURS, NAMES
from apps.emoji_flux import captions, export, latents, text, training, vae
from apps.emoji_flux.transformer import CELLS, Model, build_transformer
from apps.emoji_flux.world import SIZE, TINTS, World
from attncontrol import AttentionControlPipeline
from attncontrol.evaluation.oracle import detect, verdict
from attncontrol.models import default_call, resolve


@pytest.fixture(scope="module")
def world():
    return World("cpu", spacing=26)


@pytest.fixture(scope="module")
def tokenizer():
    return text.build_tokenizer()


@pytest.fixture(scope="module")
def drawn(tokenizer):
    return captions.draw(200, tokenizer)


@pytest.fixture(scope="module")
def space(world, drawn):
    set_seed(0)
    return latents.fit(world.render(drawn[1][:32])[0])


@pytest.fixture
def trainer(world, tokenizer, drawn, space):
    set_seed(0)
    model = Model(text.build_encoder(len(tokenizer)), build_transformer((2, 1)))
    bank = training.Captions(*drawn, tokenizer, "cpu")
    return training.Trainer(model, world, bank, space, torch.randn(3, text.WIDTH))


def in_words(things):
    return [(NAMES[name], TINTS[tint]) for name, tint in things.tolist() if name >= 0]


def test_scenes_show_their_things_in_their_boxes(world, drawn):
    set_seed(1)
    things = drawn[1][:40]
    pictures, boxes = world.render(things)
    array = ((pictures.permute(0, 2, 3, 1) + 1) * 127.5).round().byte().numpy()
    seen = detect(array)
    assert np.mean([verdict(in_words(row), found).all_right for row, found in zip(things, seen, strict=True)]) > 0.9
    inside = [
        any(np.abs(np.array(found.box) - box.numpy() / SIZE).max() < 0.1 for found in row if found.object == name)
        for row, own, placed in zip(seen, things, boxes, strict=True)
        for (name, _), box in zip(in_words(own), placed, strict=False)
    ]
    assert np.mean(inside) > 0.9


def test_things_overlap_little(world, drawn):
    set_seed(2)
    boxes = world.place(drawn[1].long())[2]
    assert (world.overlaps(boxes[:, None], drawn[1][..., 0] >= 0) <= 0.1).float().mean() > 0.95


def test_captions_name_what_is_shown_and_more(tokenizer, drawn):
    ids, things = drawn
    named = [tokenizer.decode(row[row > 1].long()) for row in ids]
    shown = [all(name in words for name, _ in in_words(own)) for words, own in zip(named, things, strict=True)]
    assert all(shown)
    counts = [sum(name in words.split() for name in NAMES) for words in named]
    fewer = [len({name for name, _ in in_words(own)}) < count for count, own in zip(counts, things, strict=True)]
    assert 0.1 < np.mean(fewer) < 0.5  # two things named, one shown


def test_every_word_is_one_token_capitals_too(tokenizer):
    for word in text.WORDS:
        for form in (word, word.capitalize()):
            assert len(tokenizer(form, add_special_tokens=False).input_ids) == 1
    assert len(tokenizer("dragon", add_special_tokens=False).input_ids) == 6


def test_the_tokenizer_is_the_shipped_ones(tokenizer):
    shipped = FluxPipeline.from_pretrained(resolve("emoji-flux"), text_encoder=None, transformer=None).tokenizer_2
    assert tokenizer.get_vocab() == shipped.get_vocab()


def test_words_know_their_neighbours_alone(tokenizer):
    encoder = text.build_encoder(len(tokenizer)).eval()
    ids = tokenizer(["a red bow and a cat", "a red bow and a dog"], return_tensors="pt").input_ids
    first, second = encoder(input_ids=ids).last_hidden_state
    same = (first - second).abs().amax(-1) < 1e-6
    assert same.tolist() == [True, True, True, True, False, False, False]  # "a" before the animal, it, end of text


def test_shipped_latent_space_fits_these_scenes(world, drawn, space):
    set_seed(3)
    pictures, _ = world.render(drawn[1][:16])
    shipped = load_file(f"{resolve('emoji-flux')}/latent_space.safetensors")
    for own in (space, shipped):
        encoded = latents.encode(pictures, own)
        assert encoded.shape == (16, 8, 32, 32)
        assert encoded.square().mean().sqrt() == pytest.approx(latents.RMS, abs=0.25)
        patches = torch.nn.functional.pixel_unshuffle(pictures, latents.PATCH).transpose(0, 1).flatten(1)
        back = torch.linalg.pinv(own["projection"]).T @ encoded.transpose(0, 1).flatten(1) + own["mean"][:, None]
        assert (back - patches).square().mean() < 0.06 * patches.var()


def test_packed_latents_are_as_the_pipeline_packs_them():
    values = torch.randn(2, 8, 32, 32)
    assert torch.equal(latents.pack(values), FluxPipeline._pack_latents(values, 2, 8, 32, 32))


def test_shipped_weights_predict_the_velocity_of_these_scenes(world, tokenizer, drawn, monkeypatch):
    """World, captions, latents and objective are those that the shipped model was trained with."""
    pipe = FluxPipeline.from_pretrained(resolve("emoji-flux"))
    space = load_file(f"{resolve('emoji-flux')}/latent_space.safetensors")
    model = Model(pipe.text_encoder_2, pipe.transformer)
    pooled = text.pooled(*text.load_clip(), [""])
    shipped = training.Trainer(model, world, training.Captions(*drawn, tokenizer, "cpu"), space, pooled)
    monkeypatch.setattr(training, "GUIDANCE", (1.0, 1.0))  # the scale at which it was taught the data's
    set_seed(0)
    with torch.no_grad():
        velocity, grounding = shipped.losses(16, training.SLOTS, distil=False)
    assert velocity < 0.35 and grounding < 0.55  # at the end of its training .22 and .35


def test_slot_dropout_leaves_the_words_of_things_and_colours_alone(tokenizer, drawn):
    bank = training.Captions(*drawn, tokenizer, "cpu")
    set_seed(5)
    ids = tokenizer(["a cat and a red bow", "a frog and a blue car"] * 100, return_tensors="pt").input_ids
    ids = bank.padded(ids, torch.zeros(200, dtype=torch.bool), 16)
    states = torch.randn(2, 16, 4).repeat(100, 1, 1)
    kept = (bank.neutralised(ids, states) == states).all(-1).float().mean(0)
    assert (kept[[1, 4, 5]] == 1).all() and (kept[7:] <= 1).all()
    assert kept[[0, 2, 3]] == pytest.approx(torch.full((3,), 0.5), abs=0.12)
    assert kept[6] == 0, "no caption keeps its own end"


def test_empty_captions_have_empty_targets(tokenizer, drawn, trainer):
    ids, things = drawn
    empty = torch.tensor([False, True])
    full = trainer.captions.padded(ids[:2].long(), empty, 32)
    assert full[1].tolist() == [tokenizer.eos_token_id] + [tokenizer.pad_token_id] * 31
    boxes = torch.tensor([[[0, 0, 64, 64]] * 3] * 2)
    wanted = trainer.captions.targets(full, things[:2], boxes)
    assert wanted.shape == (2, 32, CELLS, CELLS)
    assert wanted[1].sum() == 0 < wanted[0].sum()
    assert wanted[0, :, 8:].sum() == wanted[0, :, :, 8:].sum() == 0


@pytest.mark.slow
def test_a_few_steps_lower_both_losses(trainer, monkeypatch):
    monkeypatch.setattr(training, "WARMUP", 5)
    losses = [trainer.update(0.0, 8) for _ in range(24)]
    first, last = (np.mean(part, 0) for part in (losses[:4], losses[-4:]))
    assert (last < 0.85 * first).all(), (first, last)


def test_guidance_is_taught_by_the_running_average(trainer):
    ids = trainer.captions.padded(trainer.captions.ids[:4].long(), torch.zeros(4).bool(), 32)
    for p in trainer.average.parameters():
        p.add_(0.02 * torch.randn(p.shape))
    given = (torch.randn(4, 256, 32), ids, trainer.pooled[:1].expand(4, -1), torch.full((4,), 0.7))
    one, three, five = (trainer.taught(*given, torch.full((4,), scale)) for scale in (1.0, 3.0, 5.0))
    assert torch.allclose(five - three, three - one, atol=1e-4) and (three - one).abs().max() > 1e-3
    before = copy.deepcopy(trainer.average.state_dict())
    trainer.losses(4, 32, distil=True)[0].backward()
    assert all(torch.equal(value, before[name]) for name, value in trainer.average.state_dict().items())


def test_a_resumed_run_goes_on_as_the_unbroken_one(world, trainer, tokenizer, drawn, space, tmp_path):
    for _ in range(2):
        trainer.update(0.0, 4)
    trainer.save(tmp_path / "transformer.pt")
    expected = trainer.update(0.0, 4)
    model = Model(text.build_encoder(len(tokenizer)), build_transformer((2, 1)))
    again = training.Trainer(model, world, trainer.captions, space, trainer.pooled)
    again.load(tmp_path / "transformer.pt")
    assert again.step == 2 and again.update(0.0, 4) == pytest.approx(expected, rel=1e-4)


def test_learning_rate_warms_up_holds_and_falls_to_zero():
    assert training.learning_rate(0, 0.0) == pytest.approx(training.LEARNING_RATE / training.WARMUP)
    assert training.learning_rate(5000, 0.6) == training.LEARNING_RATE
    assert training.learning_rate(5000, 0.8) == pytest.approx(training.LEARNING_RATE / 2)
    assert training.learning_rate(5000, 1.0) == 0


@pytest.mark.slow
def test_the_autoencoder_learns_both_ways(world, drawn, space, tmp_path):
    set_seed(6)
    net = vae.build_vae((8, 16, 16))
    pictures, _ = world.render(drawn[1][:4])
    encoded = latents.encode(pictures, space)

    def losses():
        with torch.no_grad():
            return [
                vae.picture_loss(net.decode(encoded).sample, pictures).item(),
                vae.encoder_loss(net, pictures, encoded).item(),
            ]

    before = losses()
    vae.train(net, world, drawn[1], space, tmp_path / "vae.pt", 3, batch=4)
    assert all(after < first for after, first in zip(losses(), before, strict=True))
    net.load_state_dict(torch.load(tmp_path / "vae.pt", weights_only=True))


@pytest.mark.slow
def test_the_exported_folder_is_a_stock_flux_and_can_be_controlled(trainer, tokenizer, space, tmp_path):
    folder = tmp_path / "emoji-flux"
    seen = text.token_ids(tokenizer, ("cat", "with", *COLOURS))
    export.export(trainer.average.module, vae.build_vae((8, 16, 16)), tokenizer, seen, space, folder)
    call = default_call(folder) | {"num_inference_steps": 2}
    assert call["height"] == SIZE

    def draw(cls, **more):
        pipe = cls.from_pretrained(folder)
        pipe.set_progress_bar_config(disable=True)
        return pipe, pipe("a cat and a red bow", **call, **more, generator=torch.Generator().manual_seed(0)).images[0]

    (stock, plain), (_, same) = draw(FluxPipeline), draw(AttentionControlPipeline)
    assert plain.size == (SIZE, SIZE) and np.array_equal(plain, same)
    _, moved = draw(AttentionControlPipeline, control="attend-and-excite")
    assert not np.array_equal(plain, moved)
    table = stock.text_encoder_2.shared.weight
    capital, cat, dog, nothing = table[text.token_ids(tokenizer, ("Cat", "cat", "dog", "with"))]
    assert torch.equal(capital, cat) and torch.equal(dog, nothing) and not torch.equal(cat, nothing)
