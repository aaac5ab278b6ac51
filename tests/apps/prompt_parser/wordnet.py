"""A WordNet of a few lines, in the format of the real one's database files."""

from pathlib import Path

HEADER = "  1 This software and database is being provided to you\n"
NOUNS = {  # word: (offset, lexicographer file, gloss)
    "cat": (1, 5, "feline mammal"),
    "dog": (2, 5, "a canine"),
    "box": (3, 6, "a container"),
    "apple": (4, 13, "fruit"),
    "thumb": (5, 8, "a digit"),
    "moor": (6, 15, "open land"),
    "bay": (7, 17, "a body of water"),
    "baker": (8, 18, "one who bakes"),
    "fog": (9, 19, "droplets"),
    "oak": (10, 20, "a tree"),
    "salt": (11, 27, "a compound"),
    "pack": (12, 14, "a group"),
    "song": (13, 10, "music with words"),
    "walk": (14, 4, "the act of walking"),
    "storm": (15, 11, "a violent weather condition"),
    "red": (16, 7, "a colour"),
    "slurp": (17, 18, "(ethnic slur) offensive term for somebody"),
}
SENSES = ["cat%1:05:00:: 1 18", "dog%1:05:00:: 1 42", "walk%2:38:00:: 1 90", "walk%1:04:00:: 1 5"]
SENSES += ["run%2:38:00:: 1 9", "red%3:00:01:: 1 40", "red%1:07:00:: 1 3", "softly%4:02:00:: 1 7"]


def write_wordnet(folder: Path) -> Path:
    """Write the files that the word list builder and the grammar read."""
    index, data = HEADER, HEADER
    for word, (offset, file, gloss) in NOUNS.items():
        index += f"{word} n 1 0 1 0 {offset:08d}  \n"
        data += f"{offset:08d} {file:02d} n 01 {word} 0 000 | {gloss}  \n"
    files = {"index.noun": index, "data.noun": data, "cntlist.rev": "\n".join(SENSES) + "\n"}
    files["index.verb"] = HEADER + "walk v 1 0 1 1 00000021  \nrun v 1 0 1 1 00000022  \n"
    files["index.adj"] = HEADER + "red a 1 0 1 1 00000023  \n"
    files["index.adv"] = HEADER + "softly r 1 0 1 1 00000024  \n"
    files["data.verb"] = (
        HEADER + "00000021 38 v 01 walk 0 000 | go on foot  \n00000022 38 v 01 run 0 000 | go fast  \n"
    )
    files["data.adj"] = HEADER + "00000023 00 a 01 red(a) 0 000 | of the colour of blood  \n"
    files["data.adv"] = HEADER + "00000024 02 r 01 softly 0 000 | with softness  \n"
    files |= {"noun.exc": "oxen ox\n", "verb.exc": "ran run\nrunning run\n", "adj.exc": "redder red\n"}
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder
