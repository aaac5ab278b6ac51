"""Every method on tiny random diffusion transformers: what must hold whatever the model is."""

import copy
import threading

import pytest
import torch
from diffusers import FirstBlockCacheConfig

from attncontrol import AttentionControlPipeline, attach, create_method, method_classes
from attncontrol.families import family_of
from attncontrol.guidance.guided_pass import GuidedPass
from attncontrol.prompt.align import tokenize
from tests.tiny_transformers import TRANSFORMERS, t5_tokenizer

METHODS = list(method_classes())
PROMPT = "a red cat and a blue frog"
LAYOUT = {"red cat": [0.0, 0.1, 0.5, 0.9], "blue frog": [0.5, 0.1, 1.0, 0.9]}
FEW = {"thresholds": {}, "refine_at": (), "max_refinement_steps": 1, "sar": 0.0}


def method(name: str, **settings):
    """A method with steps of 5% of the latents' norm over the whole run and next to no refinement."""
    known = create_method(name).settings()
    few = {key: value for key, value in FEW.items() if key in known}
    return create_method(name, **{"relative_step": 0.05, "stop": 1.0, **few, **settings})


@pytest.fixture(scope="module", params=TRANSFORMERS)
def pipe(request):
    pipe = AttentionControlPipeline.from_pipe(TRANSFORMERS[request.param]())
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run(pipe, prompt=PROMPT, seed=0, steps=2, **arguments):
    count = len(prompt) if isinstance(prompt, list) else 1
    if "PixArt" in type(pipe).__name__:
        arguments = {"use_resolution_binning": False, "clean_caption": False, **arguments}
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


@pytest.mark.parametrize("name", METHODS)
def test_every_method_moves_the_latents_and_leaves_the_pipeline_alone(pipe, name):
    before = left_behind(pipe)
    layout = LAYOUT if method_classes()[name].needs_layout else None
    plain = run(pipe).images
    guided = run(pipe, control=method(name), layout=layout)
    assert torch.isfinite(guided.images).all() and not torch.equal(guided.images, plain)
    assert any(step.moved for step in guided.control.images[0].steps)
    assert left_behind(pipe) == before
    assert torch.equal(run(pipe).images, plain)


@pytest.mark.parametrize("name", METHODS)
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


def test_both_memory_modes_give_the_same_picture(pipe):
    fast, low = (run(pipe, control=method("attend-and-excite"), memory=memory).images for memory in ("fast", "low"))
    torch.testing.assert_close(fast, low, rtol=1e-3, atol=1e-3 * float(fast.abs().max()))


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


def captured(pipe, **settings):
    """The maps of the first guided pass of a run, with the pass and all that its attention modules were handed."""
    family = family_of(pipe)
    seen = {}

    def keep(module, args, kwargs):
        seen.setdefault("call", family.bind(args, kwargs))

    handle = pipe.transformer.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        run(pipe, steps=1)
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
            total = total + probabilities[..., 2].square().sum()
        gradient = torch.autograd.grad(total, leaf)[0]
    assert gradient.isfinite().all() and gradient.abs().max() > 0


def test_moving_a_latent_moves_the_query_of_its_patch_and_no_other(pipe):
    """The first block's queries come from the latents one by one; in a joint block all keys may change, too."""
    family, call, layers = captured(pipe)
    if "PixArt" in type(pipe).__name__:
        pytest.skip("self-attention before the first cross-attention mixes the patches")
    pass_ = GuidedPass(family, call, layers[:1])
    scores = []
    for moved in (False, True):
        latents = pass_.start.clone()
        if moved:
            if latents.ndim == 3:
                latents[0, 8 * 3 + 5] += 1
            else:
                latents[0, :, 6:8, 10:12] += 1
        with torch.no_grad(), pass_.run(latents, [0]) as (_, maps):
            text = maps.layers[0].probabilities[0]
            scores.append(text / text.sum(-1, keepdim=True))  # over the text alone: other image keys drop out
    changed = (scores[0] - scores[1]).abs().amax((0, 2)) > 1e-6
    assert changed.nonzero().flatten().tolist() == [8 * 3 + 5]


def test_t5_has_words_from_position_0_on():
    tokenized = tokenize(t5_tokenizer(), "cat and a frog")
    assert tokenized.encoders == ((0, 1, 2, 3),)
    assert tokenized.token_indices((0, 3)) == (0,)


def test_words_stand_where_the_encoders_have_them(pipe):
    record = run(pipe, "cat and a frog", control=method("attend-and-excite")).control.images[0]
    expected = {"cat": (0,), "frog": (3,)}
    if "StableDiffusion3" in type(pipe).__name__:
        expected = {"cat": (1, 77), "frog": (4, 80)}
    assert record.subjects == expected


def test_other_prompts_than_the_attached_one_are_refused(pipe):
    message = "controls the prompt 'a red cat and a blue frog', but .* 'a bear'"
    with pytest.raises(ValueError, match=message), attach(pipe, method("attend-and-excite"), prompt=PROMPT):
        run(pipe, "a bear")


def test_a_transformer_that_caches_is_refused():
    pipe = TRANSFORMERS["FLUX.1"]()
    pipe.transformer.enable_cache(FirstBlockCacheConfig())
    with pytest.raises(ValueError, match="disable_cache"):
        attach(pipe, "attend-and-excite", prompt=PROMPT)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_plain_call_beside_a_controlled_one_is_the_plain_picture(name):
    """Two pipelines share a transformer in two threads; the plain one runs while guided passes are on."""
    guided, plain = (AttentionControlPipeline.from_pipe(TRANSFORMERS[name]()) for _ in range(2))
    # fast tokenizers cannot serve two threads, in plain pipelines neither: padding is a state of theirs
    own = {name: copy.deepcopy(part) for name, part in plain.components.items() if name.startswith("tokenizer")}
    plain.register_modules(transformer=guided.transformer, **own)
    for shown in (guided, plain):
        shown.set_progress_bar_config(disable=True)
    alone, results = run(plain, seed=5).images, []
    thread = threading.Thread(target=lambda: results.extend(run(plain, seed=5).images[0] for _ in range(3)))
    thread.start()
    beside = run(guided, control=method("attend-and-excite"), steps=6).images
    thread.join()
    assert len(results) == 3 and all(torch.equal(image, alone[0]) for image in results)
    assert torch.equal(beside, run(guided, control=method("attend-and-excite"), steps=6).images)
