"""Prompts in other languages are told from English ones."""

import pytest

from attncontrol.prompt.language import looks_like_english, warn_of_other_language
from tests.prompt.clip import golden

OTHERS = [
    "ein Hund und eine Katze", "Eine rote Katze", "un chat et un chien", "un chat", "Le chat noir", "un perro rojo",
    "gato y perro", "dos gatos", "una mela rossa e una pera", "um gato e um cachorro", "een kat en een hond",
    "en hund och en katt", "kedi ve köpek", "一只猫和一只青蛙", "кошка и собака", "猫とカエル", "고양이와 개",
    "kot i pies", "czerwony kot i niebieski pies", "mačka i pas", "cane e gatto", "قطة وكلب", "γάτα και σκύλος",
]  # fmt: skip


@pytest.mark.parametrize("prompt", OTHERS)
def test_other_languages_warn(prompt):
    with pytest.warns(UserWarning, match="does not look like English"):
        warn_of_other_language(prompt)


@pytest.mark.parametrize(
    "prompt",
    [
        "a piñata and a café", "Los Angeles skyline at night", "El Capitan", "Van Gogh", "a doge meme", "cat, dog",
        "i love cats",
        "pikachu and charizard", "a bottle of eau de toilette and a rose", "", "12", "🐱", "a sign that says 猫",
    ],
)  # fmt: skip
def test_english_with_foreign_words_does_not(prompt):
    assert looks_like_english(prompt)


def test_all_golden_prompts_are_english():
    assert [r["prompt"] for r in golden("prompt_parsing.jsonl") if not looks_like_english(r["prompt"])] == []
