"""The training parts on tiny budgets: shapes, invariants, resuming. The trained model is judged by the gate."""

import numpy as np
import pytest
import torch

from apps.emoji import dataset, latents, text, unet, vae
from apps.emoji.oracle_training import IGNORE, targets
from apps.emoji.scenes import Placed, Thing
from apps.emoji.vocabulary import COLOURS, NAMES


@pytest.fixture(scope="module")
def tokenizer():
    return text.build_tokenizer()


@pytest.fixture(scope="module")
def clip(tokenizer):
    torch.manual_seed(0)
    return text.build_clip(tokenizer)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    dataset.build(folder, 48, dataset.CLEAN, 0)
    return dataset.load(folder)


def test_every_word_is_one_token_and_unknown_words_split(tokenizer, tmp_path):
    for word in (*NAMES, *COLOURS, *text.FUNCTION_WORDS, ","):
        assert len(tokenizer(word).input_ids) == 3
    for unknown in ("dragon", "Éléphant 7", "日本"):
        ids = tokenizer(unknown).input_ids
        assert len(ids) > 3 and tokenizer.unk_token_id not in ids[1:-1]
    tokenizer.save_pretrained(tmp_path)
    again = type(tokenizer).from_pretrained(tmp_path)
    assert again("a red bow and an elephant").input_ids == tokenizer("a red bow and an elephant").input_ids


def test_padding_token_is_not_the_end_token(tokenizer):
    ids = text.tokenize(tokenizer, ["a cat"])
    assert ids.shape == (1, 77)
    assert ids[0, 3] == tokenizer.eos_token_id != tokenizer.pad_token_id
    assert (ids[0, 4:] == tokenizer.pad_token_id).all()


def test_counterfactuals_differ_in_one_thing_only(tokenizer):
    rng = np.random.default_rng(0)
    for _ in range(200):
        first, second = text.counterfactual(rng)
        changed = [(a, b) for a, b in zip(first.split(), second.split(), strict=True) if a != b]
        assert len(changed) <= 3  # article, colour, name
        assert sum(a.strip(",") in NAMES for a, _ in changed) <= 1


def test_invariance_is_zero_for_equal_captions_only(clip, tokenizer):
    same = text.invariance(clip, tokenizer, [("a cat and a frog", "a cat and a frog")])
    different = text.invariance(clip, tokenizer, [("a cat and a frog", "a dog and a frog")])
    assert same.item() == 0 < different.item()


def test_latents_are_white_and_keep_most_of_the_picture(scenes):
    images = scenes[0]
    space = latents.fit(images)
    encoded = latents.encode(images, space)
    assert encoded.shape == (48, 4, 16, 16)
    covariance = torch.cov(encoded.transpose(0, 1).flatten(1))
    assert torch.allclose(covariance, torch.eye(4), atol=2e-2)
    back = encoded.permute(0, 2, 3, 1) @ torch.linalg.pinv(space["projection"]) + space["mean"]
    error = (back - latents.patches(images)).square().mean()
    assert error < 0.25 * latents.patches(images).var()


def test_slot_dropout_leaves_content_words_alone(clip, tokenizer):
    conditioner = unet.Conditioner(clip.text_model, tokenizer)
    captions = ["a cat and a red bow", "a frog and a blue car"] * 400
    full, _ = conditioner.encode(captions[:2])
    given, _, words = conditioner(captions, torch.Generator().manual_seed(0))
    states = given[::2]
    kept = (states == full[0]).all(-1).float().mean(0)
    words = [2, 5, 6]  # cat, red, bow
    assert torch.allclose(kept[words], torch.tensor(0.9), atol=0.05)
    assert torch.allclose(kept[[3, 4]], torch.tensor(0.45), atol=0.07)  # and, a
    assert kept[7] == 0, "the end of text shows its own caption"
    foreign = (states[:, 7] == full[1, 7]).all(-1).float().mean()
    assert abs(foreign - 0.45) < 0.07
    assert (states[:, 8:] == conditioner.empty[8:]).all()


def test_learning_rate_warms_up_stays_and_decays_to_zero():
    assert unet.learning_rate(0) == pytest.approx(unet.LEARNING_RATE / unet.WARMUP)
    assert unet.learning_rate(5000) == unet.LEARNING_RATE
    assert unet.learning_rate(5000, 0.5) == pytest.approx(unet.LEARNING_RATE / 2)
    assert unet.learning_rate(5000, 1.0) == 0


def test_a_resumed_run_goes_on_as_the_unbroken_one(clip, tokenizer, tmp_path):
    def trainer():
        return unet.Trainer(unet.Conditioner(clip.text_model, tokenizer), "cpu", (16, 16))

    things = torch.full((2, 4, 6), -1, dtype=torch.int16)
    batch = unet.Batch(torch.randn(2, 4, 16, 16), ["a cat", "a dog and a bow"], things)
    unbroken = trainer()
    for _ in range(2):
        unbroken.update(batch)
    unbroken.save(tmp_path / "state.pt")
    expected = unbroken.update(batch)
    resumed = trainer()
    resumed.load(tmp_path / "state.pt")
    assert resumed.step == 2
    assert resumed.update(batch) == pytest.approx(expected, rel=1e-4)
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.slow
def test_the_vae_learns_both_ways(scenes, tmp_path):
    torch.manual_seed(0)
    images = np.concatenate([scenes[0]] * 12)  # training leaves the first 512 out
    space = latents.fit(scenes[0])
    net = vae.build_vae()
    pixels, encoded = text.to_pixels(scenes[0][:8]), latents.encode(scenes[0][:8], space)
    before = [vae.picture_loss(net.decode(encoded).sample, pixels), vae.encoder_loss(net, pixels, encoded)]
    vae.train(images, space, tmp_path / "vae.pt", 4, True)
    net.load_state_dict(torch.load(tmp_path / "vae.pt", weights_only=True)["vae"])
    after = [vae.picture_loss(net.decode(encoded).sample, pixels), vae.encoder_loss(net, pixels, encoded)]
    assert after[0] < before[0] and after[1] < before[1]


def test_oracle_targets_mark_middle_rim_and_background():
    names, colours, distances = targets([[Placed(Thing("bow", "red"), (16, 16, 48, 40))]])
    assert names[0, 0, 0] == len(NAMES) and colours[0, 0, 0] == IGNORE
    assert names[0, 4, 4] == IGNORE
    assert names[0, 6, 7] == NAMES.index("bow") and colours[0, 6, 7] == list(COLOURS).index("red")
    x, y = 30, 26  # middle of cell (6, 7)
    wanted = torch.tensor([x - 16, y - 16, 48 - x, 40 - y]) / 64
    assert torch.allclose(distances[0, :, 6, 7], wanted)
