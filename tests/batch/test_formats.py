import json
import time

import pytest

from attncontrol.batch.formats import Problem, Record, file_format, read_records


def read(tmp_path, name, content, prompt_column=None):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_records(path, prompt_column))


def values(items):
    return [(item.line, item.values) for item in items if isinstance(item, Record)]


def problems(items):
    return [(item.line, item.key, item.message) for item in items if isinstance(item, Problem)]


def test_plain_text_with_bom_crlf_comments_and_empty_lines(tmp_path):
    items = read(tmp_path, "p.txt", b"\xef\xbb\xbf# animals\r\na cat\r\n\r\n  a dog  \r\n#end")
    assert values(items) == [(2, {"prompt": "a cat"}), (4, {"prompt": "a dog"})]
    assert not problems(items)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "# two\n\na cat\n  \n--prompt dog --seed 3\n"),
        ("p.csv", "prompt,seed\n\na cat,\n,\ndog,3\n\n"),
        ("p.tsv", "\nprompt\tseed\n\na cat\t\n\ndog\t3\n"),
        ("p.jsonl", '\n{"prompt": "a cat"}\n  \n{"prompt": "dog", "seed": "3"}\n\n'),
        ("p.yaml", "\n- prompt: a cat\n\n- prompt: dog\n  seed: '3'\n\n"),
    ],
)
def test_line_ends_byte_order_marks_and_empty_lines(tmp_path, name, text):
    expected = [{"prompt": "a cat"}, {"prompt": "dog", "seed": "3"}]
    plain = read(tmp_path, name, text)
    assert [v for _, v in values(plain)] == expected and not problems(plain)
    for mark in (b"", b"\xef\xbb\xbf"):
        for end in ("\n", "\r\n"):
            assert read(tmp_path, name, mark + text.replace("\n", end).encode()) == plain
            assert read(tmp_path, "no_extension", mark + text.replace("\n", end).encode()) == plain


def test_option_lines(tmp_path):
    line = '--prompt "a \\"red\\" cat" --negative_prompt blurry, dark --seed 7 --steps 20 --cfg_scale 5.5 --width 512'
    items = read(tmp_path, "p.txt", f"{line} --height 256 --n_iter 2 --batch_size 3\n")
    assert values(items) == [
        (
            1,
            {
                "prompt": 'a "red" cat', "negative_prompt": "blurry, dark", "seed": "7", "steps": "20",
                "guidance_scale": "5.5", "width": "512", "height": "256", "images_per_prompt": "6",
            },
        )
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "key", "words"),
    [
        ("--prompt cat --stepz 3", "--stepz", "--steps"),
        ("--prompt cat --steps", "--steps", "no value"),
        ("--prompt cat --prompt dog", "--prompt", "twice"),
        ("--prompt cat --n_iter many", "--n_iter", "whole number"),
        ('--prompt "cat', None, "quot"),
        ("--steps 3 4", None, "begins with --"),
    ],
)
def test_wrong_option_lines(tmp_path, line, key, words):
    items = read(tmp_path, "p.txt", f"a cat\n{line}\na dog\n")
    assert [(n, k) for n, k, _ in problems(items)] == [(2, key)]
    assert words in problems(items)[0][2]
    assert [n for n, _ in values(items)] == [1, 3]


def test_csv(tmp_path):
    text = 'prompt,seeds,subjects,layout,control\n"a cat, a dog","1 2",cat;dog,"{""cat"":[0,0,1,1]}",syngen\n\n'
    items = read(tmp_path, "p.csv", text + '"two\nlines",3,,,\nx,[4],,,\n')
    assert values(items) == [
        (
            2,
            {
                "prompt": "a cat, a dog", "seeds": ["1", "2"], "subjects": ["cat", "dog"],
                "layout": {"cat": [0, 0, 1, 1]}, "control": "syngen",
            },
        ),
        (4, {"prompt": "two\nlines", "seeds": ["3"]}),
        (6, {"prompt": "x", "seeds": [4]}),
    ]  # fmt: skip


def test_wrong_csv(tmp_path):
    items = read(tmp_path, "p.csv", 'prompt,layout\na,b,c\nx,{bad\nok,\n"a"b,\n')
    assert [(line, key) for line, key, _ in problems(items)] == [(2, None), (3, "layout"), (5, None)]
    assert values(items) == [(4, {"prompt": "ok"})]
    assert "did you mean 'steps'" in problems(read(tmp_path, "q.csv", "prompt,stepz\na,3\n"))[0][2]
    assert "empty" in problems(read(tmp_path, "r.csv", ""))[0][2]
    assert problems(read(tmp_path, "s.csv", "seed,steps\n1,2\n"))[0][:2] == (1, "prompt")
    assert "two columns" in problems(read(tmp_path, "t.csv", "prompt,seed,seed\na,1,2\n"))[0][2]


def test_parti_prompts_and_draw_bench(tmp_path):
    parti = 'Prompt\tCategory\tChallenge\tNote\na sign "hello"\tArts\tBasic\t\n"x" and y\tFood\tComplex\tlong\n'
    assert values(read(tmp_path, "parti.tsv", parti)) == [
        (2, {"prompt": 'a sign "hello"', "metadata": {"category": "Arts", "challenge": "Basic"}}),
        (3, {"prompt": '"x" and y', "metadata": {"category": "Food", "challenge": "Complex", "note": "long"}}),
    ]
    draw = 'Prompts,Category\n"A red car, parked.",Colors\n'
    assert values(read(tmp_path, "drawbench.csv", draw)) == [
        (2, {"prompt": "A red car, parked.", "metadata": {"category": "Colors"}})
    ]


def test_json_lines_and_geneval(tmp_path):
    geneval = {"tag": "two_object", "include": [{"class": "cat", "count": 1}], "prompt": "a photo of a cat"}
    text = f'{{"prompt": "a", "seeds": [1, 2]}}\n\n{json.dumps(geneval)}\n'
    assert values(read(tmp_path, "p.jsonl", text)) == [
        (1, {"prompt": "a", "seeds": [1, 2]}),
        (3, {"prompt": "a photo of a cat", "metadata": geneval}),
    ]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"prompt": "a"', "column"),
        ('{"prompt": NaN}', "NaN"),
        ('{"prompt": "a", "prompt": "b"}', "twice"),
        ('["a"]', "expected an object"),
        ("[" * 200_000, "recursion"),
        ('{"steps": 1' + "0" * 10_000 + "}", "digits"),
        ('"' + "a" * 2_000_000 + '"', "more than"),
    ],
)
def test_wrong_json_lines(tmp_path, line, words):
    items = read(tmp_path, "p.jsonl", f'{{"prompt": "a"}}\n{line}\n{{"prompt": "b"}}\n')
    assert [n for n, _ in values(items)] == [1, 3]
    assert [n for n, _, _ in problems(items)] == [2] and words in problems(items)[0][2]


def test_yaml(tmp_path):
    text = (
        "# list\n- prompt: a cat\n  seeds: [1, 2]\n  control:\n    method: syngen\n- {prompt: b, layout: auto}\n---\n"
    )
    items = read(tmp_path, "p.yaml", text + "- prompt: c\n")
    assert values(items) == [
        (2, {"prompt": "a cat", "seeds": [1, 2], "control": {"method": "syngen"}}),
        (6, {"prompt": "b", "layout": "auto"}),
        (8, {"prompt": "c"}),
    ]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("- just words\n- prompt: b\n", 1, "expected 'prompt"),
        ("- prompt: a\n  prompt: b\n- prompt: b\n", 1, "twice"),
        ("- &x prompt: a\n- prompt: b\n", 1, "anchors"),
        ("- prompt: !!python/object:os.system x\n- prompt: b\n", 1, "could not determine a constructor"),
        ("- {? [a] : b}\n- prompt: b\n", 1, "unhashable"),
        ("- prompt: 2020-13-45\n- prompt: b\n", 1, "month"),
        ("prompt: b\n", 1, "list of rows"),
        ("- prompt: [a\n", 2, "at column 1; what follows"),
        (b"- prompt: \xff\n", None, "UTF-8"),
    ],
)
def test_wrong_yaml(tmp_path, text, line, words):
    items = read(tmp_path, "p.yaml", text)
    assert problems(items)[0][0] == line and words in problems(items)[0][2]
    assert [v for _, v in values(items)] in ([{"prompt": "b"}], [])


def test_yaml_bombs_are_harmless(tmp_path):
    bomb = "- &a [x, x]\n" + "".join(
        f"- &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    assert len(problems(read(tmp_path, "p.yaml", bomb))) == 9
    assert problems(read(tmp_path, "q.yaml", "- " + "[" * 100_000))
    for name, text in (("list", "- prompt: [" + "a, " * 60_000 + "]\n"), ("map", "- {" + "a: 1, " * 60_000 + "}\n")):
        start = time.thread_time()
        ((_, _, message),) = problems(read(tmp_path, f"{name}.yaml", text))
        assert "more than 50000 values" in message and time.thread_time() - start < 5


@pytest.mark.parametrize(
    ("name", "content", "format"),
    [
        ("a.txt", "a cat\n", "text"),
        ("a.txt", '\n{"prompt": "a"}\n', "json lines"),
        ("a", "prompt,seed\na,1\n", "csv"),
        ("a", "Prompt\tCategory\tChallenge\tNote\n", "tsv"),
        ("a", "- prompt: a\n", "yaml"),
        ("a.txt", "a cat, a dog and a frog\n", "text"),
        ("a.CSV", "prompt\na\n", "csv"),
        ("a.yml", "", "yaml"),
    ],
)
def test_formats_are_told_apart(tmp_path, name, content, format):
    path = tmp_path / name
    path.write_text(content)
    assert file_format(path) == format


@pytest.mark.parametrize(
    ("content", "words"),
    [("a cat".encode("utf-16"), "UTF-16"), (b"\x89PNG....", "no text file"), (b"PK\x03\x04", "no text file")],
)
def test_what_is_no_text(tmp_path, content, words):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        file_format(path)
    with pytest.raises(ValueError, match="cannot read"):
        file_format(tmp_path / "missing.txt")


HRS = "meta_prompt,obj1,color1,synthetic_prompt\na red banana.,banana,red,\n"


@pytest.mark.parametrize(
    ("name", "text", "column", "row"),
    [
        ("hrs.csv", HRS, "meta_prompt", {"prompt": "a red banana.", "metadata": {"obj1": "banana", "color1": "red"}}),
        ("focus.yaml", "- Prompt: a\n  t5: [[1]]\n", None, {"prompt": "a", "metadata": {"t5": [[1]]}}),
        ("focus.yaml", "- text: a\n  made: 2024-01-02\n", None, {"prompt": "a", "metadata": {"made": "2024-01-02"}}),
        (
            "diffusiondb.csv",
            "image_name,prompt,seed,step,cfg,sampler\nx.png,a cat,5,50,7.0,8\n",
            None,
            {"prompt": "a cat", "seed": "5", "steps": "50", "guidance_scale": "7.0",
             "metadata": {"image_name": "x.png", "sampler": "8"}},
        ),
        ("coco.csv", ",image_id,caption\n0,7,a cat\n", None,
         {"prompt": "a cat", "metadata": {"column 1": "0", "image_id": "7"}}),
        ("excel.csv", 'sep=;\nprompt;seed\n"a; b, c";3\n', None, {"prompt": "a; b, c", "seed": "3"}),
        ("semicolon", "prompt;subject\na, b;c\n", None, {"prompt": "a, b", "metadata": {"subject": "c"}}),
        ("both.json", '[{"caption": "b", "prompt": "a"}]', None, {"prompt": "a", "metadata": {"caption": "b"}}),
        ("pandas.csv", "prompt,subjects,seed\na cat,\"['cat']\",-1\n", None, {"prompt": "a cat", "subjects": ["cat"]}),
        ("a1111.txt", "--prompt a --sampler_name 'Euler a' --seed -1", None,
         {"prompt": "a", "metadata": {"sampler_name": "Euler a"}}),
        ("pipe", '[\n {"prompt": "a"}]', None, {"prompt": "a"}),
        ("texts.json", '["a"]', None, {"prompt": "a"}),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_files_as_others_publish_them(tmp_path, name, text, column, row):
    items = read(tmp_path, name, text, column)
    assert not problems(items) and [item.values for item in items] == [row]


def test_what_has_no_effect_is_said_once_a_file(tmp_path):
    rows = "prompt,obj1,layoutx2,sampler,seed\na,b,x,7,-1\nc,d,x,7,-1\n"
    with pytest.warns(UserWarning) as caught:
        read(tmp_path, "p.csv", rows)
    assert len(caught) == 1
    text = str(caught[0].message)
    assert "obj1, layoutx2" in text and "the scheduler of the model" in text and "seed -1" in text
    with pytest.warns(UserWarning, match="did you mean subjects"):
        read(tmp_path, "p.yaml", "- prompt: a\n  subject: b\n")


def test_a_file_without_a_prompt_column_says_how_to_name_it(tmp_path):
    (problem,) = read(tmp_path, "hrs.csv", HRS)
    assert problem.key == "prompt" and "meta_prompt, obj1" in problem.message and "--prompt-column" in problem.message
    (problem,) = read(tmp_path, "hrs.csv", HRS, "nope")
    assert "no column 'nope'" in problem.message


@pytest.mark.parametrize(
    ("text", "rows", "line", "words"),
    [
        ('[\n{"prompt": "a"}\n{"prompt": "b"}]', 1, 2, "comma"),
        ('[{"prompt": "a"},\n{"prompt" "b"}]', 1, 2, "delimiter"),
        ('[{"prompt": "a"},\n{"prompt": "b"}', 2, 2, "no end"),
        ('[{"prompt": "a"},\n3]', 1, 2, "expected an object"),
    ],
)
def test_wrong_json_arrays(tmp_path, text, rows, line, words):
    items = read(tmp_path, "p.json", text)
    assert len(values(items)) == rows
    assert [n for n, _, _ in problems(items)] == [line] and words in problems(items)[0][2]
