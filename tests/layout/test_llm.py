import pytest

from attncontrol.layout import layout_request, read_layout, read_layout_answer
from attncontrol.layout.llm import INSTRUCTIONS


def test_request_ends_with_the_prompt():
    text = layout_request("a cat  {and}\na frog")
    assert text.endswith("Caption: a cat {and} a frog\nAnswer:")
    assert "{caption}" not in text


def test_example_of_the_request_is_a_valid_answer():
    example = INSTRUCTIONS.split("Answer: ")[1]
    apples, bowl = read_layout_answer(example)
    assert apples.phrase == "red apples" and len(apples.regions) == 2
    assert bowl.regions == ((270 / 512, 180 / 512, 490 / 512, 400 / 512),)


@pytest.mark.parametrize("wrapping", ["{}", "Here it is:\n```json\n{}\n```\nEnjoy!", "  {}  "])
def test_json_answers(wrapping):
    answer = wrapping.replace(
        "{}", '{"image_size": 512, "objects": [{"phrase": "cat", "boxes": [[0, 128, 256, 512]]}]}'
    )
    (cat,) = read_layout_answer(answer)
    assert (cat.phrase, cat.regions) == ("cat", ((0, 0.25, 0.5, 1),))


def test_line_answers():
    answer = """Sure, here are the boxes.
    airplane_1: (0, 0, 128, 128)
    - airplane_2: (128, 0, 256, 128)
    2. red apple: [256, 256, 512.0, 512]
    "parking_meter": (0, 256, 128, 512)"""
    layout = read_layout_answer(answer)
    assert {item.phrase: item.regions for item in layout} == {
        "airplane": ((0, 0, 0.25, 0.25), (0.25, 0, 0.5, 0.25)),
        "red apple": ((0.5, 0.5, 1, 1),),
        "parking meter": ((0, 0.5, 0.25, 1),),
    }
    assert read_layout(layout) is layout


def test_answers_of_llm_grounded_diffusion():
    end = "\nBackground prompt: An indoor [big] scene\nNegative prompt: "
    for answer in (
        f"[('a cube', [128, 64, 128, 256]), ('a vase', [256, 0, 128, 128]), ('a cube', [0, 0, 64, 512])]{end}",
        f"Objects: [('a cube', [128, 64, 128, 256]),\n('a vase', [256, 0, 128, 128]),"
        f" ('a cube', [0, 0, 64, 512])]{end}",
        "[{'name': 'a cube', 'bounding_box': [128, 64, 128, 256]}, {'name': 'a vase', 'bounding_box': "
        "[256, 0, 128, 128]}, {'name': 'a cube', 'bounding_box': [0, 0, 64, 512]}]",
    ):
        cube, vase = read_layout_answer(answer)
        assert (cube.phrase, cube.regions) == ("a cube", ((0.25, 0.125, 0.5, 0.625), (0, 0, 0.125, 1)))
        assert (vase.phrase, vase.regions) == ("a vase", ((0.5, 0, 0.75, 0.25),))
    assert read_layout_answer(f"[]{end}cars") == ()
    with pytest.warns(UserWarning, match="'a bowl' reaches outside the image and is clipped"):
        (bowl,) = read_layout_answer(f"[('a bowl', [448, 256, 128, 128])]{end}")
    assert bowl.regions == ((0.875, 0.5, 1, 0.75),)
    with pytest.raises(ValueError, match="lies outside"):
        read_layout_answer(f"[('a bowl', [700, 256, 128, 128])]{end}")


def test_numbered_answers_after_a_sentence():
    answer = """For the given image, here are the boxes (x1, y1, x2, y2):
    1. Tree (left): Box coordinates (0, 128, 256, 512)
    2. **Car** (center): Box coordinates (256, 128, 512, 512))
    - traffic_light_1 (0, 0, 128, 64)
    cup: top-left (0, 0), bottom-right (128, 256)"""
    assert {item.phrase: item.regions for item in read_layout_answer(answer)} == {
        "Tree": ((0, 0.25, 0.5, 1),),
        "Car": ((0.5, 0.25, 1, 1),),
        "traffic light": ((0, 0, 0.25, 0.125),),
        "cup": ((0, 0, 0.25, 0.5),),
    }


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ("I cannot help with that.", "the answer has no box"),
        ("cat: (0, 0, many, 1)", "cannot read this line of the answer"),
        ("(0, 0, 100, 100)", "cannot read this line of the answer"),
        ("cat: (0, 0, 100)", "'cat': box [0.0, 0.0, 100.0] must be 4 numbers"),
        ("cat: (100, 0, 50, 100)", "'cat': box [100.0, 0.0, 50.0, 100.0] is inverted"),
        ('{"objects": [{"phrase": "cat"', "the answer's layout is not JSON"),
        ('{"objects": [{"phrase": "cat", "boxes": [[0, 0, 900, 100]]}]}', "lies outside the image, 512 wide"),
    ],
)
def test_bad_answers(answer, message):
    with pytest.raises(ValueError) as error:
        read_layout_answer(answer)
    assert message in str(error.value)
