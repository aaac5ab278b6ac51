"""Every method on tiny random diffusion transformers: what must hold whatever the model is."""

import copy
import functools
import inspect
import threading

import diffusers
import pytest
import torch
from diffusers import FirstBlockCacheConfig

from attncontrol import AttentionControlPipeline, attach, create_method, method_classes
from attncontrol.families import family_of
from attncontrol.guidance.guided_pass import GuidedPass
from attncontrol.prompt.align import tokenize
from tests.tiny_language import t5_tokenizer
from tests.tiny_transformers import CALLS, TRANSFORMERS

MOVES_NOTHING = ("best-start", "redraw")  # guidance/test_draft.py, test_redrawing.py
METHODS = [name for name in method_classes() if name not in MOVES_NOTHING]
MEASURED = ("FLUX.1", "PixArt-Sigma")  # joint and cross-attention: every method on every other family is a slow test
LATER = ("Lumina 2", "CogView 4", "HunyuanDiT")  # most of their tests are slow ones
PROMPT = "a red cat and a blue frog"
SLOW = pytest.mark.slow
LAYOUT = {"red cat": [0.0, 0.1, 0.5, 0.9], "blue frog": [0.5, 0.1, 1.0, 0.9]}
FEW = {"thresholds": {}, "refine_at": (), "max_refinement_steps": 1, "sar": 0.0}


def method(name: str, **settings):
    """A method with steps of 5% of the latents' norm over the whole run and next to no refinement."""
    known = create_method(name).settings()
    few = {key: value for key, value in FEW.items() if key in known}
    return create_method(name, **{"relative_step": 0.05, "stop": 1.0, **few, **settings})


@functools.cache
def controlled(family: str):
    pipe = AttentionControlPipeline.from_pipe(TRANSFORMERS[family]())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(params=[pytest.param(name, marks=SLOW if name in LATER else ()) for name in TRANSFORMERS])
def family(request):
    return request.param


@pytest.fixture
def pipe(family):
    return controlled(family)


def in_turn():
    """Every method with every family; in the fast selection all with two families, one with each of the others."""
    return [
        pytest.param(family, name, marks=() if family in MEASURED or place == number % len(METHODS) else SLOW)
        for number, family in enumerate(TRANSFORMERS)
        for place, name in enumerate(METHODS)
    ]


def run(pipe, prompt=PROMPT, seed=0, steps=2, **arguments):
    count = len(prompt) if isinstance(prompt, list) else 1
    arguments = {**CALLS.get(pipe.stock_name, {}), **arguments}
    generators = [torch.Generator().manual_seed(seed + i) for i in range(count)]
    defaults = {"num_inference_steps": steps, "height": 32, "width": 32, "output_type": "latent"}
    return pipe(prompt, generator=generators, **{**defaults, **arguments})


def left_behind(pipe):
    """All that guidance could leave on a transformer pipeline."""
    transformer = pipe.transformer
    return (
        {name: id(module.processor) for name, module in transformer.named_modules() if hasattr(module, "processor")},
        [name for name, module in transformer.named_modules() if "forward" in vars(module)],
        [sorted(vars(m.processor)) for m in transformer.modules() if hasattr(m, "processor")],
        dict(transformer._forward_pre_hooks),
        [parameter.requires_grad for parameter in transformer.parameters()],
        sorted(vars(pipe.scheduler).keys() & {"step", "set_timesteps"}),
        "encode_prompt" in vars(pipe),
        transformer.is_gradient_checkpointing,
    )


@pytest.mark.parametrize(("family", "name"), in_turn())
def test_every_method_moves_the_latents_and_leaves_the_pipeline_alone(pipe, name):
    before = left_behind(pipe)
    layout = LAYOUT if method_classes()[name].needs_layout else None
    plain = run(pipe).images
    guided = run(pipe, control=method(name), layout=layout)
    assert torch.isfinite(guided.images).all() and not torch.equal(guided.images, plain)
    assert any(step.moved for step in guided.control.images[0].steps)
    assert left_behind(pipe) == before
    assert torch.equal(run(pipe).images, plain)


@pytest.mark.parametrize(("family", "name"), in_turn())
def test_every_method_works_by_its_name_alone(pipe, name):
    layout = LAYOUT if method_classes()[name].needs_layout else None
    record = run(pipe, control=name, layout=layout).control.images[0]
    assert record.steps[0].losses.keys() == {name}


def test_a_step_of_no_length_is_the_stock_pipeline_bit_for_bit(pipe):
    plain = run(pipe).images
    assert torch.equal(run(pipe, control=method("attend-and-excite", relative_step=0.0)).images, plain)


def test_images_of_a_batch_are_those_drawn_alone(pipe):
    prompts = [PROMPT, "a bear"]
    together = run(pipe, prompts, control=method("attend-and-excite")).images
    for i, prompt in enumerate(prompts):
        alone = run(pipe, prompt, seed=i, control=method("attend-and-excite")).images
        torch.testing.assert_close(together[i], alone[0], rtol=1e-3, atol=1e-3 * float(alone.abs().max()))


def test_both_memory_modes_give_the_same_picture(pipe, family):
    if family == "HunyuanDiT":
        with pytest.raises(ValueError, match="cannot recompute its activations"):
            run(pipe, control=method("attend-and-excite"), memory="low")
        return
    fast, low = (run(pipe, control=method("attend-and-excite"), memory=memory).images for memory in ("fast", "low"))
    torch.testing.assert_close(fast, low, rtol=1e-3, atol=1e-3 * float(fast.abs().max()))


def with_negative(pipe):
    """Arguments that switch a pipeline's classifier-free guidance on, by batch or by a second call."""
    known = inspect.signature(getattr(diffusers, pipe.stock_name).__call__).parameters
    wanted = {"negative_prompt": "a photo of a big dog and two frogs", "true_cfg_scale": 3.0}
    return {name: value for name, value in wanted.items() if name in known}


def test_every_call_of_a_step_sees_the_latents_that_the_scheduler_moves_on(pipe, monkeypatch):
    """The negative prompt's call, too, whose text has another length; what is not latents stays."""
    of, inputs, steps = family_of(pipe), [], []

    def keep(module, args, kwargs):
        if not torch.is_grad_enabled():
            inputs.append(of.latents(of.bind(args, kwargs)).clone())

    step = type(pipe.scheduler).step

    @functools.wraps(step)
    def keeping(self, model_output, timestep, sample, *args, **kwargs):
        steps.append((sample.clone(), [*inputs]))
        inputs.clear()
        return step(self, model_output, timestep, sample, *args, **kwargs)

    monkeypatch.setattr(type(pipe.scheduler), "step", keeping)
    with attach(pipe, method("attend-and-excite"), prompt=PROMPT):  # its hook runs before the one below
        handle = pipe.transformer.register_forward_pre_hook(keep, with_kwargs=True)
        try:
            run(pipe, **with_negative(pipe))
        finally:
            handle.remove()
    assert len(steps) == 2
    for sample, seen in steps:
        rows = torch.cat(seen)
        assert len(rows) == 2 - (pipe.stock_name == "Flux2Pipeline")  # which has no negative prompt
        torch.testing.assert_close(rows, sample.expand_as(rows), rtol=0, atol=1e-6)


def test_the_prompt_is_looked_at_not_the_negative_one(pipe):
    arguments, losses = with_negative(pipe), []
    if "negative_prompt" not in arguments:
        pytest.skip("the pipeline takes no negative prompt")
    for negative in ("a dog", "two big bears and a clock"):
        call = {**arguments, "negative_prompt": negative}
        record = run(pipe, steps=1, control=method("attend-and-excite"), **call).control.images[0]
        losses.append(record.steps[0].losses["attend-and-excite"][0])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("family", [pytest.param(n, marks=() if n in MEASURED else SLOW) for n in TRANSFORMERS])
def test_in_bfloat16_small_moves_are_not_lost(family):
    pipe = AttentionControlPipeline.from_pipe(TRANSFORMERS[family](), dtype=torch.bfloat16)
    pipe.set_progress_bar_config(disable=True)
    plain = run(pipe).images
    guided = run(pipe, control=method("attend-and-excite", relative_step=0.01))
    assert all(step.moved for step in guided.control.images[0].steps)
    assert guided.images.isfinite().all() and not torch.equal(guided.images, plain)


def test_looking_changes_nothing(pipe):
    control = method("attend-and-excite")
    plain, watched = run(pipe, control=control), run(pipe, control=control, record_maps=True)
    assert torch.equal(plain.images, watched.images)
    assert watched.control.images[0].maps.shape == (2, 2, 8, 8)


def test_a_failure_puts_everything_back(pipe):
    def fail(*_, **__):
        raise KeyboardInterrupt

    before = left_behind(pipe)
    hook = "callback" if "PixArt" in type(pipe).__name__ else "callback_on_step_end"
    with pytest.raises(KeyboardInterrupt):
        run(pipe, control=method("attend-and-excite"), **{hook: fail})
    assert left_behind(pipe) == before


def captured(pipe, prompt=PROMPT):
    """The family, the first denoiser call of a run, and its layers."""
    family = family_of(pipe)
    seen = {}

    def keep(module, args, kwargs):
        seen.setdefault("call", family.bind(args, kwargs))

    handle = pipe.transformer.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        run(pipe, prompt, steps=1)
    finally:
        handle.remove()
    call = seen["call"]
    layers = family.layers(family.grid(call))
    return family, call, layers


def test_the_maps_are_softmaxes_over_all_keys_and_the_forward_is_not_changed(pipe):
    family, call, layers = captured(pipe)
    pass_ = GuidedPass(family, call, layers)
    with pass_.run(pass_.start, range(pass_.images)) as (leaf, maps):
        total = 0
        for layer in maps.layers:
            probabilities = layer.probabilities
            assert probabilities.shape[2] == 64 and (probabilities >= 0).all()
            assert (probabilities.sum(-1) <= 1 + 1e-5).all()
            total = total + probabilities.square().sum()
        gradient = torch.autograd.grad(total, leaf)[0]
    assert gradient.isfinite().all() and gradient.abs().max() > 0


def test_t5_has_words_from_position_0_on():
    tokenized = tokenize(t5_tokenizer(), "cat and a frog")
    assert tokenized.encoders == ((0, 1, 2, 3),)
    assert tokenized.token_indices((0, 3)) == (0,)


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_words_stand_where_the_text_encoder_read_them(pipe, family):
    """By the tokens that the text encoders were really given, at the state that is this text key."""
    prompt, seen = "cat and a frog", []
    encoders = [part for name, part in pipe.components.items() if name.startswith("text_encoder") and part is not None]

    def keep(module, args, kwargs):
        seen.append((module, kwargs.get("input_ids", args[0] if args else None)[0], kwargs.get("attention_mask")))

    handles = [encoder.register_forward_pre_hook(keep, with_kwargs=True) for encoder in encoders]
    record = run(pipe, prompt, steps=1, control=method("attend-and-excite")).control.images[0]
    for handle in handles:
        handle.remove()
    clip = "SD 3" in family
    if clip:
        assert record.subjects == {"cat": (1, 77), "frog": (4, 80)}
    ids, mask = next((ids, mask) for module, ids, mask in seen if module is encoders[-1 if clip else place(family)])
    kept = states_kept(family, ids, mask)
    tokenizer = pipe.tokenizer_3 if clip else getattr(pipe, "tokenizer_2", None) or pipe.tokenizer
    for word in ("cat", "frog"):
        first = {
            "SD 3": 77,
            "HunyuanDiT": 77,
            "AuraFlow": 8,
            "FLUX.2": 512 - len(ids),
            "CogView 4": 1023 - len(ids),
        }.get(family, 0)
        position = record.subjects[word][-1] - first
        assert tokenizer.decode([kept[position]]).strip() == word


def place(family):
    """Which text encoder's states are text keys."""
    return 1 if family in ("FLUX.1", "HunyuanDiT") else 0


def states_kept(family, ids, mask):
    """The tokens whose states a pipeline keeps, in order."""
    if family == "Qwen-Image":
        return ids[34:]
    if family == "Z-Image":
        return ids[mask[0].bool()]
    return torch.cat([ids[:1], ids[-299:]]) if family == "Sana" else ids


def test_other_prompts_than_the_attached_one_are_refused(pipe):
    message = "controls the prompt 'a red cat and a blue frog', but .* 'a bear'"
    with pytest.raises(ValueError, match=message), attach(pipe, method("attend-and-excite"), prompt=PROMPT):
        run(pipe, "a bear")


@pytest.mark.parametrize(
    ("family", "arguments", "message"),
    [
        ("FLUX.1", {"prompt_2": "a bear"}, "prompt_2 must be left out"),
        ("FLUX.1", {"max_sequence_length": 6}, "max_sequence_length=6 cuts off 'a red cat .*needs 7"),
        ("FLUX.2", {"max_sequence_length": 32}, "max_sequence_length=32 cuts off"),
        ("Lumina 2", {"system_prompt": "Draw:"}, "system_prompt must be left out"),
        ("Sana", {"complex_human_instruction": ["Draw:"]}, "complex_human_instruction must be left out"),
    ],
)
def test_text_that_words_are_not_sought_in_is_refused(family, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(controlled(family), control=method("attend-and-excite"), **arguments)


def test_a_tokenizer_that_cuts_the_template_elsewhere_is_refused():
    pipe = TRANSFORMERS["Qwen-Image"]()
    pipe.prompt_template_encode = "a bear. " + pipe.prompt_template_encode
    with pytest.raises(ValueError, match=r"begins with 38 tokens .*QwenImagePipeline drops 34"):
        attach(pipe, "attend-and-excite", prompt=PROMPT)


def test_chroma_checkpoints_its_joint_blocks_only():
    control = method("attend-and-excite", layers="joint, single")
    assert run(controlled("Chroma"), control=control).control.images[0].steps[0].moved
    with pytest.raises(ValueError, match=r'single blocks.*layers="joint"'):
        run(controlled("Chroma"), control=control, memory="low")


def test_a_transformer_that_caches_is_refused():
    pipe = TRANSFORMERS["FLUX.1"]()
    pipe.transformer.enable_cache(FirstBlockCacheConfig())
    with pytest.raises(ValueError, match="disable_cache"):
        attach(pipe, "attend-and-excite", prompt=PROMPT)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in MEASURED else SLOW) for n in TRANSFORMERS])
def test_a_plain_call_beside_a_controlled_one_is_the_plain_picture(name):
    """Two pipelines share a transformer in two threads; the plain one runs while guided passes are on."""
    guided, plain = (AttentionControlPipeline.from_pipe(TRANSFORMERS[name]()) for _ in range(2))
    own = {name: copy.deepcopy(part) for name, part in plain.components.items() if "tokenizer" in name}
    plain.register_modules(transformer=guided.transformer, **own)  # tokenizers of one object may not run side by side
    for shown in (guided, plain):
        shown.set_progress_bar_config(disable=True)
    alone, results = run(plain, seed=5).images, []
    thread = threading.Thread(target=lambda: results.extend(run(plain, seed=5).images[0] for _ in range(3)))
    thread.start()
    beside = run(guided, control=method("attend-and-excite"), steps=6).images
    thread.join()
    assert len(results) == 3 and all(torch.equal(image, alone[0]) for image in results)
    assert torch.equal(beside, run(guided, control=method("attend-and-excite"), steps=6).images)
