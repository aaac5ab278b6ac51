"""Denoisers under torch.compile: plain calls run compiled, guided passes do not, pictures are as without."""

import shutil

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from attncontrol import AttendAndExcite, Conform, attach
from tests import tiny, tiny_transformers

PROMPT = "a red cat and a blue frog"
CONTROL = AttendAndExcite(thresholds={0: 0.9}, max_refinement_steps=1, step_size=300, stop=0.7)
PIPES = {
    "unet": lambda: tiny.stable_diffusion(unet=tiny.unet(**tiny.ONE_LEVEL)),
    "transformer": tiny_transformers.flux,
}


def compile_and_replace(pipe, name, backend):
    setattr(pipe, name, torch.compile(getattr(pipe, name), backend=backend))


FORMS = {
    "torch.compile(denoiser)": compile_and_replace,
    "denoiser.compile()": lambda pipe, name, backend: getattr(pipe, name).compile(backend=backend),
    "compile_repeated_blocks()": lambda pipe, name, backend: getattr(pipe, name).compile_repeated_blocks(
        backend=backend
    ),
}
REST = pytest.mark.slow
"""Tracing a whole denoiser takes seconds: of its two forms one is compiled before and the other under control."""
BACKENDS = ["eager", pytest.param("inductor", marks=pytest.mark.slow)]


def run(pipe):
    generator = torch.Generator().manual_seed(0)
    return pipe(PROMPT, generator=generator, num_inference_steps=3, height=32, width=32, output_type="latent").images


@pytest.fixture(scope="module", params=["unet", pytest.param("transformer", marks=pytest.mark.slow)])
def expected(request):
    """The denoiser's name, the plain latents and the guided ones without compiling."""
    pipe = PIPES[request.param]()
    plain = run(pipe)
    with attach(pipe, CONTROL, prompt=PROMPT):
        return request.param, plain, run(pipe)


@pytest.fixture(params=BACKENDS)
def backend(request):
    if request.param == "inductor" and not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("inductor needs a C++ compiler")
    torch._dynamo.reset()
    yield CompileCounterWithBackend(request.param)
    torch._dynamo.reset()


@pytest.mark.parametrize("form", [pytest.param(f, marks=REST if f == "denoiser.compile()" else ()) for f in FORMS])
def test_a_compiled_denoiser_is_guided_as_without_and_not_compiled_again(form, expected, backend):
    name, plain, guided = expected
    pipe = PIPES[name]()
    denoiser = getattr(pipe, name)
    FORMS[form](pipe, name, backend)
    close(run(pipe), plain)
    frames, before = backend.frame_count, left_behind(getattr(pipe, name))
    assert frames > 0
    with attach(pipe, CONTROL, prompt=PROMPT) as control:
        close(run(pipe), guided)
    assert all(step.moved for step in control.record.images[0].steps[:2])
    assert left_behind(getattr(pipe, name)) == before
    assert all(parameter.requires_grad for parameter in denoiser.parameters())
    close(run(pipe), plain)
    assert backend.frame_count == frames


@pytest.mark.parametrize(
    "form", [pytest.param(f, marks=REST if f == "torch.compile(denoiser)" else ()) for f in FORMS]
)
def test_a_denoiser_may_be_compiled_under_control(form, expected, backend):
    name, plain, guided = expected
    pipe = PIPES[name]()
    denoiser = getattr(pipe, name)
    with attach(pipe, CONTROL, prompt=PROMPT):
        close(run(pipe), guided)
        FORMS[form](pipe, name, backend)
        before = left_behind(getattr(pipe, name))
        close(run(pipe), guided)
        frames = backend.frame_count
        close(run(pipe), guided)
        assert not left_behind(denoiser)[0] or denoiser is getattr(pipe, name)
    assert left_behind(getattr(pipe, name))[1] == before[1] and not left_behind(getattr(pipe, name))[0]
    close(run(pipe), plain)
    assert backend.frame_count == frames > 0


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_pass_that_is_the_call_stands_for_a_compiled_one(form):
    torch._dynamo.reset()
    backend, control = CompileCounterWithBackend("eager"), Conform(stop=1.0, refine_at=(), shared_pass=True)
    pipe = tiny_transformers.flux()
    with attach(pipe, control, prompt=PROMPT):
        guided = run(pipe)
    FORMS[form](pipe, "transformer", backend)
    with attach(pipe, control, prompt=PROMPT):
        close(run(pipe), guided)
    assert backend.frame_count == 0  # every call was a guided pass


def left_behind(called):
    """Hooks and compiled calls of a denoiser."""
    return dict(called._forward_pre_hooks), [id(part._compiled_call_impl) for part in called.modules()]


def close(latents, expected):
    torch.testing.assert_close(latents, expected, rtol=1e-3, atol=1e-3)
