"""The command line on a tiny random checkpoint: real files, the same images as from Python, and errors that help."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from PIL import Image
from typer.testing import CliRunner

from attncontrol import AttendAndExcite, AttentionControlPipeline, method_classes
from attncontrol.cli import app, options
from attncontrol.images.recipe import Recipe, read_recipe
from attncontrol.images.visualize import enlarge
from attncontrol.losses.presets import PRESETS
from tests import tiny

PROMPT = "a cat and a red frog"
QUICK = ("--steps", "2", "--width", "32", "--height", "32")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny.stable_diffusion().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def run(checkpoint, tmp_path, monkeypatch):
    """run(command, *arguments) in an empty folder, results in `out`."""
    monkeypatch.chdir(tmp_path)

    def invoke(command, *arguments):
        given = [str(a) for a in arguments]
        if command in ("generate", "compare", "parse") and "--model" not in given:
            given += ["--model", checkpoint]
        if command in ("generate", "compare"):
            given = [*QUICK, "--output", "out", *given]
        if command == "generate" and "--control" not in given:
            given += ["--set", "refine_at=[]"]
        return CliRunner().invoke(app, [command, *given])

    return invoke


def written() -> list[str]:
    return sorted(str(path.relative_to("out")) for path in Path("out").rglob("*") if path.is_file())


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def test_generate_writes_what_the_pipeline_makes_and_how(run, checkpoint):
    result = run(
        "generate", PROMPT, "--control", "attend-and-excite", "--set", "step_size=40", "--set", "thresholds={}",
        "--seed", 3, "--negative-prompt", "a car", "--guidance-scale", 4,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    path = Path("out/a-cat-and-a-red-frog_attend-and-excite_3.png")
    assert written() == [path.name] and str(path) in result.stdout and "cat [2], red frog [6]" in result.stdout
    pipe = AttentionControlPipeline.from_pretrained(checkpoint)
    expected = pipe(
        PROMPT, negative_prompt="a car", control=AttendAndExcite(step_size=40, thresholds={}), num_inference_steps=2,
        width=32, height=32, guidance_scale=4.0, generator=torch.Generator().manual_seed(3),
    ).images[0]  # fmt: skip
    assert (pixels(path) == np.asarray(expected)).all()
    recipe = read_recipe(path)
    assert (recipe.prompt, recipe.negative_prompt, recipe.seed, recipe.steps) == (PROMPT, "a car", 3, 2)
    assert (recipe.guidance_scale, recipe.width, recipe.height, recipe.model) == (4.0, 32, 32, checkpoint)
    assert (recipe.control[0]["method"], recipe.control[0]["step_size"]) == ("attend-and-excite", 40.0)
    assert recipe.scheduler == "DDIMScheduler" and set(recipe.versions) >= {"attncontrol", "diffusers", "torch"}


def test_a_seed_gives_the_same_image_alone_and_in_a_series(run):
    assert run("generate", PROMPT, "--seed", 4, "--images", 3).exit_code == 0
    assert len(written()) == 3
    series = pixels("out/a-cat-and-a-red-frog_conform_5.png")
    assert run("generate", PROMPT, "--seed", 5, "--overwrite").exit_code == 0
    assert (pixels("out/a-cat-and-a-red-frog_conform_5.png") == series).all()
    assert (pixels("out/a-cat-and-a-red-frog_conform_6.png") != series).any()


def test_control_none_is_plain_sampling(run, checkpoint):
    assert run("generate", PROMPT, "--seed", 0, "--control", "none").exit_code == 0
    stock = tiny.stable_diffusion()
    expected = stock(
        PROMPT, num_inference_steps=2, width=32, height=32, generator=torch.Generator().manual_seed(0)
    ).images[0]
    path = "out/a-cat-and-a-red-frog_plain_0.png"
    assert (pixels(path) == np.asarray(expected)).all() and read_recipe(path).control == ()


def test_the_guidance_scale_is_the_models_unless_given(run):
    assert options.read_guidance_scale(None, "emoji") == 3.0 and options.read_guidance_scale(2.0, "emoji") == 2.0
    assert run("generate", PROMPT, "--seed", 0, "--control", "none").exit_code == 0
    assert read_recipe("out/a-cat-and-a-red-frog_plain_0.png").guidance_scale == 7.5


@pytest.mark.parametrize(
    ("name", "scale"),
    [("StableDiffusionPipeline", 7.5), ("StableDiffusionXLPipeline", 5.0), ("StableDiffusionXLImg2ImgPipeline", 5.0)],
)
def test_the_usual_guidance_scale_is_that_of_the_pipeline(tmp_path, name, scale):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    assert options.read_guidance_scale(None, str(tmp_path)) == scale
    with pytest.raises(ValueError, match="--model: no diffusers checkpoint at"):
        options.read_guidance_scale(None, str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    "command", [["generate"], ["compare", "--seeds", "0", "--controls", "ebama"]], ids=lambda command: command[0]
)
def test_the_memory_mode_is_handed_on(run, monkeypatch, command):
    recomputing, enable = [], UNet2DConditionModel.enable_gradient_checkpointing

    def note(unet):
        recomputing.append(unet)
        enable(unet)

    monkeypatch.setattr(UNet2DConditionModel, "enable_gradient_checkpointing", note)
    assert run(*command, PROMPT, "--memory", "fast").exit_code == 0 and not recomputing
    assert run(*command, PROMPT, "--memory", "low", "--overwrite").exit_code == 0 and recomputing
    assert run(*command, PROMPT, "--memory", "small").exit_code == 2


def test_without_a_seed_each_run_draws_its_own(run):
    assert run("generate", PROMPT).exit_code == run("generate", PROMPT).exit_code == 0
    assert len({read_recipe(Path("out") / name).seed for name in written()}) == 2


def test_methods_add_up_and_take_settings(run):
    result = run(
        "generate", PROMPT, "--control", "attend-and-excite + 0.5*syngen", "--set", "syngen.step_size=15", "--set",
        "max_refinement_steps=2", "--set", "stop=0.8", "--set", "thresholds={\"0\": 0.3}", "--set",
        "scale_range=1,0.25", "--seed", 1,
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    first, second = read_recipe("out/a-cat-and-a-red-frog_attend-and-excite+0.5xsyngen_1.png").control
    assert (first["weight"], first["step_size"], first["stop"], first["scale_range"]) == (1.0, 20.0, 0.8, [1.0, 0.25])
    assert first["thresholds"] == {"0.0": 0.3}
    assert (second["method"], second["weight"], second["step_size"], second["stop"]) == ("syngen", 0.5, 15.0, 0.8)


@pytest.mark.parametrize(
    ("subjects", "tokens"),
    [(["red frog, cat"], [[6], [2]]), (["2,6"], [[2], [6]]), (["frog", "--subjects", "cat"], [[6], [2]]),
     (['[["red", "frog"], [1, 2]]'], [[6], [1, 2]])],
)  # fmt: skip
def test_subjects_are_words_indices_or_groups(run, subjects, tokens):
    result = run("generate", PROMPT, "--seed", 0, "--subjects", *subjects)
    assert result.exit_code == 0, result.stderr
    recipe = read_recipe(Path("out") / written()[0])
    assert [subject["noun"]["token_indices"] for subject in recipe.subjects] == tokens


def test_maps_are_saved_over_the_image(run):
    result = run("generate", PROMPT, "--seed", 0, "--maps")
    assert result.exit_code == 0, result.stderr
    stem = "a-cat-and-a-red-frog_conform_0"
    assert written() == [f"{stem}.png", f"{stem}_maps.png"]
    with Image.open(f"out/{stem}_maps.png") as image:
        assert image.width > 3 * 256 and image.height > 256
        assert json.loads(image.text["attncontrol"])[0]["seed"] == 0


def test_a_layout_comes_from_a_file(run):
    layout = {"cat": [0, 0, 0.5, 1], "red frog": [[0.5, 0, 1, 1]]}
    Path("boxes.json").write_text(json.dumps(layout))
    result = run("generate", PROMPT, "--seed", 0, "--control", "layout-guidance", "--layout", "boxes.json")
    assert result.exit_code == 0, result.stderr
    assert read_recipe(Path("out") / written()[0]).layout == layout


def test_compare_draws_plain_and_methods_on_the_same_seeds(run, checkpoint):
    result = run("compare", PROMPT, "--controls", "ebama,syngen", "--seeds", "0,7")
    assert result.exit_code == 0, result.stderr
    assert written() == ["a-cat-and-a-red-frog_compare.png"]
    with Image.open("out/a-cat-and-a-red-frog_compare.png") as image:
        recipes = [Recipe.from_json(json.dumps(recipe)) for recipe in json.loads(image.text["attncontrol"])]
        page = np.asarray(image.convert("RGB"))
    methods = [recipe.control[0]["method"] if recipe.control else "plain" for recipe in recipes]
    assert methods == ["plain", "ebama", "syngen"] * 2
    assert [recipe.seed for recipe in recipes] == [0] * 3 + [7] * 3
    pipe = AttentionControlPipeline.from_pretrained(checkpoint)
    left = page.shape[1] - 3 * (256 + 8)
    bottom = page.shape[0] - (256 + 8)
    for column, control in enumerate([None, "ebama", "syngen"]):
        generator = torch.Generator().manual_seed(7)
        output = pipe(PROMPT, control=control, num_inference_steps=2, width=32, height=32, generator=generator)
        x = left + column * (256 + 8)
        assert (page[bottom : bottom + 256, x : x + 256] == np.asarray(enlarge(output.images[0]))).all()


def test_compare_adds_a_row_of_maps_per_subject(run):
    assert run("compare", PROMPT, "--seeds", "0", "--controls", "ebama").exit_code == 0
    height = pixels("out/a-cat-and-a-red-frog_compare.png").shape[0]
    assert run("compare", PROMPT, "--seeds", "0", "--controls", "ebama", "--maps", "--overwrite").exit_code == 0
    assert pixels("out/a-cat-and-a-red-frog_compare.png").shape[0] == height + 2 * (256 + 8)


def test_methods_says_what_each_costs_with_a_model(run, checkpoint):
    result = run("methods", "--cost", "--width", 64, "--height", 32)
    assert result.exit_code == 0, result.stderr
    assert all(name in result.stdout for name in method_classes())
    assert "64x32" in result.stdout and re.search(r"\b\d+ to \d+\b", result.stdout)
    assert run("methods", "syngen", "--cost", "--model", "nowhere").exit_code == 2


def test_methods_that_cannot_guide_a_size_leave_the_costs_of_the_others(run, tmp_path):
    """As a checkpoint's tuned settings may have it."""
    model = tmp_path / "tuned"
    tiny.stable_diffusion(unet=tiny.unet(**tiny.ONE_LEVEL)).save_pretrained(model)
    (model / "control.json").write_text('{"syngen": {"resolution": 16}, "conform": {"layers": "up.0"}}')
    result = run("methods", "--cost", "--model", model, "--width", 64, "--height", 48)
    assert result.exit_code == 0, result.stderr
    listed = " ".join(result.stdout.split())
    assert "syngen: no cross-attention layer has maps of 16x16 (height x width); there are 24x32." in listed
    assert re.search(r"attend-and-excite +24x32", result.stdout) and not re.search(r"syngen +\d", result.stdout)
    result = run("methods", "syngen", "--cost", "--model", model, "--width", 64, "--height", 48)
    assert result.exit_code == 2 and "syngen: no cross-attention layer has maps of 16x16" in result.stderr


def test_methods_lists_all_and_explains_each(run):
    result = run("methods")
    assert result.exit_code == 0 and all(name in result.stdout for name in method_classes())
    for name, cls in method_classes().items():
        result = run("methods", name)
        assert result.exit_code == 0 and all(setting in result.stdout for setting in cls().settings())
    assert all(part["method"] in run("methods", "auto").stdout for part in PRESETS["auto"])
    result = run("methods", "synggen")
    assert result.exit_code == 2 and "did you mean 'syngen'" in result.stderr


def test_parse_shows_entities_and_what_methods_make_of_them(run):
    result = run("parse", "a cat and a red sombrero")
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert "1:a 2:cat 3:and 4:a 5:red 6:som 7:brero" in lines[1]
    assert "entity    sombrero [6, 7]  modified by red [5]" in lines
    used = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines[lines.index("") + 1 :]}
    assert set(used) == set(method_classes())
    assert used["attend-and-excite"] == "cat[2]; sombrero[6-7]"
    assert used["syngen"] == "red[5] sombrero[6-7]"
    assert used["boxdiff"] == "cat[2]; sombrero[6-7], those that a layout places"
    assert used["attention-refocusing"].startswith("cat[2]; red[5]; sombrero[6-7],")
    assert used["layout-guidance"].startswith("cat[2]; red[5] sombrero[6-7],")
    assert run("parse", "cat frog", "--subjects", "frog").stdout.count("entity") == 1
    assert "leaves this prompt as it is" in run("parse", "of a and the").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([""], "PROMPT: it is empty"),
        (["  "], "PROMPT: it is empty"),
        ([PROMPT, "--control", "attend-and-exite"], "--control: unknown method 'attend-and-exite', did you mean"),
        ([PROMPT, "--control", "syngen +"], "--control: the control 'syngen +' lacks a method"),
        ([PROMPT, "--control", "boxdiff"], "boxdiff needs a layout"),
        ([PROMPT, "--control", "none", "--subjects", "cat"], "--control: 'none' makes no use of --subjects"),
        ([PROMPT, "--set", "stepsize=3"], "--set: the control has no setting 'stepsize', did you mean 'step_size'"),
        ([PROMPT, "--set", "step_size"], "--set: 'step_size' must have the form key=value"),
        ([PROMPT, "--set", "step_size=far"], "--set: conform: step_size cannot be 'far'"),
        ([PROMPT, "--set", "start=0.9"], "need 0 <= start <= stop <= 1"),
        ([PROMPT, "--set", "syngen.stop=1"], "--set: the control has no setting 'syngen.stop'"),
        ([PROMPT, "--subjects", "dgo, cat"], "'dgo' is not in the prompt"),
        ([PROMPT, "--subjects", "frogs"], "did you mean 'frog'"),
        ([PROMPT, "--subjects", "0"], "token index 0 is outside"),
        ([PROMPT, "--subjects", "-1"], "token index -1 is outside"),
        ([PROMPT, "--subjects", "7"], "token index 7 is outside"),
        ([PROMPT, "--subjects", "["], "--subjects: '[' is not a JSON list"),
        ([PROMPT, "--subjects", ","], "--subjects: name at least one word"),
        (["a " * 80 + "cat", "--subjects", "cat"], "lies beyond"),
        ([PROMPT, "--layout", "missing.json"], "--layout: cannot read the layout file 'missing.json'"),
        ([PROMPT, "--layout", "boxes.txt"], "--layout: "),
        ([PROMPT, "--width", "100"], "--width: 100 is not a multiple of 8; the nearest is 96"),
        ([PROMPT, "--height", "4"], "--height"),
        ([PROMPT, "--set", "resolution=64"], "there are 8x8, 16x16"),
        ([PROMPT, "--guidance-scale", "nan"], "--guidance-scale: nan must be finite"),
        ([PROMPT, "--steps", "0"], "--steps"),
        ([PROMPT, "--steps", "5000"], "--steps"),
        ([PROMPT, "--seed", "-1"], "--seed"),
        ([PROMPT, "--seed", str(2**64)], "--seed"),
        ([PROMPT, "--images", "0"], "--images"),
        ([PROMPT, "--device", "quantum"], "--device: 'quantum' is no device: it is cpu"),
        ([PROMPT, "--device", "cuda:99"], "--device: 'cuda:99' cannot be used here"),
        ([PROMPT, "--dtype", "float8"], "--dtype"),
        ([PROMPT, "--model", "no/such/folder"], "--model: no diffusers checkpoint at 'no/such/folder'"),
        ([PROMPT, "--sheed", "3"], "--seed"),
    ],
)  # fmt: skip
def test_wrong_input_is_explained_and_nothing_is_written(run, arguments, message):
    result = run("generate", *arguments)
    assert result.exit_code == 2, (result.stdout, result.stderr, result.exception)
    assert message in " ".join(result.stderr.split()), result.stderr
    assert "Traceback" not in result.stderr and not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--controls", "none"], "--controls: name at least one method"),
        (["--controls", "syngen,cofnorm"], "did you mean 'conform'"),
        (["--seeds", "0,x"], "--seeds: '0,x' must be whole numbers"),
        (["--seeds", "-1"], "--seeds: '-1' must be whole numbers"),
        (["--seeds", "1,1"], "names a seed twice"),
        (["--seeds", ","], "--seeds"),
    ],
)
def test_wrong_comparisons_are_explained(run, arguments, message):
    result = run("compare", PROMPT, *arguments)
    assert result.exit_code == 2 and message in " ".join(result.stderr.split()), result.stderr
    assert not Path("out").exists()


def test_an_unsuitable_model_is_named(run, tmp_path):
    folder = tmp_path / "model"
    tiny.stable_diffusion().save_pretrained(folder)
    for file in (folder / "unet").iterdir():
        file.unlink()
    result = run("generate", PROMPT, "--model", folder)
    assert result.exit_code == 2 and "is not a complete StableDiffusionPipeline checkpoint" in result.stderr
    (folder / "model_index.json").write_text('{"_class_name": "PixArtAlphaPipeline"}')
    result = run("generate", PROMPT, "--model", folder)
    assert result.exit_code == 2 and "PixArtAlphaPipeline" in result.stderr
    assert not Path("out").exists()


def test_existing_results_stay_unless_asked(run):
    assert run("generate", PROMPT, "--seed", 0).exit_code == 0
    before = Path("out", written()[0]).read_bytes()
    result = run("generate", PROMPT, "--seed", 0, "--guidance-scale", 2, "--images", 2)
    assert result.exit_code == 2 and "--overwrite" in result.stderr
    assert len(written()) == 1 and Path("out", written()[0]).read_bytes() == before
    assert run("generate", PROMPT, "--seed", 0, "--guidance-scale", 2, "--overwrite").exit_code == 0
    assert Path("out", written()[0]).read_bytes() != before


def test_an_output_that_is_a_file_is_refused(run):
    Path("out").touch()
    result = run("generate", PROMPT)
    assert result.exit_code == 2 and "--output" in result.stderr


@pytest.mark.filterwarnings("default:the prompt has")
def test_words_beyond_the_cut_are_warned_of(run):
    result = run("generate", "a frog and " + "a " * 80 + "cat", "--seed", 0)
    assert result.exit_code == 0 and "Warning: " in result.stderr and "cat" in result.stderr
    assert "Traceback" not in result.stderr and ".py:" not in result.stderr


def test_the_command_works_as_a_program_of_its_own(checkpoint, tmp_path):
    def start(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "attncontrol", *arguments], cwd=tmp_path, capture_output=True, text=True
        )

    result = start("generate", "-weird", "--model", checkpoint)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    result = start("generate", "--model", checkpoint, "--seed", "0", "--steps", "1", "--", "/../weird: 一只猫 *? cat")
    assert result.returncode == 0, result.stderr
    assert result.stderr == "" and [path.parent.name for path in tmp_path.rglob("*.png")] == ["outputs"]
    result = start("generate", PROMPT, "--control", "nothing")
    assert result.returncode == 2 and result.stderr.startswith("Error: --control: unknown method")


def test_help_needs_no_torch():
    code = (
        "import sys\nfrom attncontrol.cli import app\nfrom typer.testing import CliRunner\n"
        "assert 'generate' in CliRunner().invoke(app, ['--help']).stdout\n"
        "assert CliRunner().invoke(app, ['generate', '--help']).exit_code == 0\n"
        "assert CliRunner().invoke(app, ['--version']).stdout.startswith('attncontrol ')\n"
        "assert not {'torch', 'diffusers', 'transformers', 'spacy'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
