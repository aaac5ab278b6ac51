"""The word list from WordNet's files."""

from apps.prompt_parser.build_words import build
from tests.apps.prompt_parser.wordnet import write_wordnet


def test_parts_of_speech_by_frequency_irregular_forms_and_no_slurs(tmp_path):
    words = build(write_wordnet(tmp_path))
    assert words["walk"] == "vn" and words["red"] == "an" and words["softly"] == "r"
    assert words["oxen"] == "p" and words["ran"] == "d" and words["redder"] == "c"
    assert "running" not in words  # regular enough
    assert "slurp" not in words
    assert list(words) == sorted(words)
