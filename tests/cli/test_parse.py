"""`attncontrol parse` on checkpoints of transformers: every text encoder's positions, without any weights."""

import pytest
from typer.testing import CliRunner

from attncontrol.cli import app
from tests.tiny_transformers import TRANSFORMERS

TOKENS = {
    "SD 3": "1:cat 2:and 3:a 4:frog 77:cat 78:and 79:a 80:frog",
    "Qwen-Image": "0:cat 1:and 2:a 3:frog",
    "FLUX.2": "507:cat 508:and 509:a 510:frog",
}


@pytest.mark.parametrize("family", TOKENS)
def test_parse_shows_where_every_text_encoder_has_the_words(family, tmp_path):
    TRANSFORMERS[family]().save_pretrained(tmp_path)
    for weights in tmp_path.rglob("*.safetensors"):
        weights.unlink()
    result = CliRunner().invoke(app, ["parse", "cat and a frog", "--model", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert f"tokens    {TOKENS[family]}\n" in result.stdout
