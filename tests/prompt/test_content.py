"""Things to be drawn: media, styles and views are no subjects by default, and neither is what a prompt negates."""

import pytest

from attncontrol.prompt import parse_prompt
from attncontrol.prompt.content import drawn

DESCRIPTIONS = (
    "a photo of a lion and a clock => lion clock",
    "a photo of a bench => bench",
    "an oil painting of a cat => cat",
    "a photo => photo",
    "a painting next to a bee => painting bee",
    "a painting on the right of a bee => painting bee",
    "a camera and a photo on a table => camera photo table",
    "a black and white photograph of a dog and a cat => dog cat",
    "a close-up of a frog => frog",
    "a close up of a frog => frog",
    "close-up photo of a frog with a hat => frog hat",
    "a cat, digital art => cat",
    "a cat and a dog, oil painting, 4k, highly detailed => cat dog",
    "a cat in the style of Van Gogh => cat",
    "a dog in pixel art style => dog",
    "a 3d render of a car and a tree => car tree",
    "a cat on a white background => cat",
    "a bird with a blurry background, bokeh => bird",
    "a lion, studio lighting, sharp focus => lion",
    "a lion and a bear, trending on artstation => lion bear",
    "a lion, by Greg Rutkowski => lion",
    "an aerial view of a castle => castle",
    "a portrait of a woman with a hat => woman hat",
    "a watercolor of a fox => fox",
    "digital art of a robot => robot",
    "a pencil sketch of a horse => horse",
    "there are two fire hydrants in the image => hydrants",
    "a man holding a photo of a dog => man photo dog",
    "a man taking a photo of a cat => man photo cat",
    "the picture shows a cat and a dog => cat dog",
    "a picture with a cat and a dog => cat dog",
    "masterpiece, best quality, a cat => cat",
    "a painting by Monet of a cat => cat",
    "a wall with a painting and a clock => wall painting clock",
    "a poster of a lion => lion",
    "a cat looking at a painting of a dog => cat painting dog",
    "a low angle shot of a tower => tower",
    "a macro shot of a bee on a flower => bee flower",
    "a cat, depth of field => cat",
    "a frog as an oil painting => frog",
    "a cat, shot on Canon EOS R5 => cat",
    "a high quality picture of an apple => apple",
    "a photograph of an astronaut riding a horse => astronaut horse",
    "an illustration depicting a lion and a mouse => lion mouse",
    "anime style illustration of a girl with a sword => girl sword",
    "a picture frame and a lamp => frame lamp",
    "a drawing and a pencil => drawing pencil",
    "a red photo and a blue cup => photo cup",
    "This is a photo of a cup and a spoon => cup spoon",
    "a DSLR photo of a cat => cat",
    "a bedroom with a poster on the wall => bedroom poster wall",
    "a painting of a cat by Van Gogh => cat",
    "a bed, a painting, a lamp => bed painting lamp",
    "an oil painting, a cat and a dog => cat dog",
    "a cat by a pond => cat pond",
    "a lamp and a picture frame => lamp frame",
    "a traffic light and a car => light car",
    "a knight in the style of Studio Ghibli, 8k => knight",
    "a photo of a cat in black and white => cat",
    "a photograph in black and white of a cat => cat",
    "a robot and a cat, concept art, artstation, smooth => robot cat",
    "vector illustration of a fox and a hen => fox hen",
    "a fox, watercolor => fox",
    "a fox in watercolor => fox",
    "oil on canvas, a fox and a hen => fox hen",
    "wide shot of a ship => ship",
    "a ship, wide angle, golden hour => ship",
)
NEGATIONS = (
    "a lion, no clock => lion",
    "a cat but no dog => cat",
    "a street without cars => street",
    "a lion with nothing but a crown => lion crown",
    "a cat, not a dog => cat",
    "a street free of cars and people => street",
    "a street without cars, bikes or people => street",
    "a plate with no food and a fork => plate fork",
    "a man without a hat and a dog => man dog",
    "a dog that isn't wearing a hat => dog",
    "a cat with neither a hat nor a scarf => cat",
    "a cat instead of a dog => cat",
    "not only a cat but also a dog => cat dog",
    "a car that is not red and a dog => car dog",
    "a no parking sign on a street => sign street",
    "there is no dog in the garden => garden",
    "a table without any plates or cups, a lamp => table lamp",
    "a cat does not have a tail => cat",
    "a cat and no dogs or birds => cat",
    "a hatless man and a dog => man dog",
    "a cloudless sky over a field => sky field",
    "a house not far from a lake => house lake",
    "a beach with no people => beach",
    "a kitchen lacking a stove => kitchen",
    "a bowl without a spoon on a table => bowl table",
    "a cat, no dog, a bird => cat bird",
    "a room devoid of furniture => room",
    "a street devoid of people and a lamp => street lamp",
    "a bowl void of fruit => bowl",
    "a sky empty of clouds => sky",
    "a cat, none of the dogs => cat",
    "a park with hardly any trees => park",
    "a cat with no sign of a dog => cat",
    "a bear unaccompanied by a dog => bear",
)


def structure(prompt):
    return drawn(parse_prompt(prompt, "embedded"))


@pytest.mark.parametrize("case", DESCRIPTIONS)
def test_descriptions_of_the_picture_are_no_subjects_but_things_are(case):
    prompt, nouns = case.split(" => ")
    assert [entity.noun.text for entity in structure(prompt).entities] == nouns.split()


@pytest.mark.parametrize("case", NEGATIONS)
def test_negated_things_are_no_subjects(case):
    prompt, nouns = case.split(" => ")
    assert [entity.noun.text for entity in structure(prompt).entities] == nouns.split()


def test_negated_modifier_is_taken_from_its_entity():
    car = structure("a car that is not red").entities[0]
    assert (car.noun.text, car.modifiers) == ("car", ())


def test_prompt_of_negated_things_only_has_no_subject():
    assert structure("no dogs").entities == ()


def test_what_is_left_out_is_named_with_its_reason():
    left_out = structure("a photo of a lion, no clock").left_out
    assert [(item.noun.text, item.reason) for item in left_out] == [
        ("photo", "describes the picture"),
        ("clock", "negated"),
    ]
