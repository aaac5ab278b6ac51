"""Sheets of pictures to label by eye."""

import json
import sys

import numpy as np
from PIL import Image

from apps.emoji import grid, pictures
from apps.emoji.vocabulary import COLOURS, NAMES
from apps.faithfulness.results import PICTURES, Result, ResultFile


def test_sheets_and_labels_are_of_the_same_pictures_in_the_same_order(tmp_path, monkeypatch, capsys):
    results = [Result("plain", f"a cat and a {name}", seed, 1.0, ()) for name in ("dog", "frog") for seed in range(15)]
    ResultFile(tmp_path).append(results)
    (tmp_path / PICTURES).mkdir()
    for shade, result in enumerate(results[:-1]):  # the last one was not kept
        Image.new("RGB", (8, 8), (8 * shade, 0, 0)).save(tmp_path / PICTURES / result.picture)
    out = tmp_path / "labels"
    monkeypatch.setattr(sys, "argv", ["pictures", str(tmp_path), "--count", "27", "--output", str(out)])
    pictures.main()
    labels = json.loads((out / "labels.json").read_text())
    assert len(labels) == 27 and labels[0].keys() == {"prompt", "method", "seed", "seen"}
    assert not any(label["seen"] for label in labels)
    page = np.asarray(Image.open(out / "pictures.webp").convert("RGB"))
    shades = [int(page[8 * (i // 16), 8 * (i % 16), 0]) // 8 for i in range(27)]
    keys = [(results[shade].prompt, results[shade].seed) for shade in shades]
    assert keys == [(label["prompt"], label["seed"]) for label in labels] and shades != sorted(shades)
    assert sorted(path.name for path in out.glob("sheet*")) == ["sheet000.png", "sheet024.png"]
    assert capsys.readouterr().out == ""


def test_the_grid_has_every_name_and_colour():
    words = " ".join(text for row in grid.rows() for text, _ in row).split()
    assert {*NAMES, *COLOURS} <= set(words)
