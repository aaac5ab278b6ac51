import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attncontrol.attention.layers import Layer
from attncontrol.attention.maps import AttentionMaps, LayerMap
from attncontrol.losses import AttendAndExcite
from attncontrol.losses.base import Reading
from tests.golden import golden_cases
from tests.losses.inputs import attentions, context, evaluate, gradient, mean_cross, one_layer, random_attention
from tests.losses.single import attend_and_excite_loss

GROUPS = [[2], [1, (4, 5)], [8]]


def prepared(method, attention, now):
    return method.subject_maps(attention[None], [now])[0]


def published_method(case, **settings):
    kwargs = case["kwargs"]
    return AttendAndExcite(
        variant="reference",
        smoothing=kwargs["smooth"],
        sigma=kwargs["sigma"],
        kernel_size=kwargs["kernel_size"],
        normalize_eot=kwargs["normalize_eot"],
        **settings,
    )


def published_context(case, **known):
    return context([[i] for i in case.tensor("token_indices").tolist()], case["kwargs"]["prompt_length"], **known)


@pytest.mark.parametrize("case", golden_cases("attend_and_excite", "loss"))
def test_published_loss(case):
    attention, method, now = (
        case.tensor("attention", requires_grad=True),
        published_method(case),
        published_context(case),
    )
    values, largest = {
        torch.float64: (1e-7, 1e-6),
        torch.float32: (1e-6, 1e-5),
        torch.float16: (4e-3, 4e-3),
    }[attention.dtype]
    maps = prepared(method, attention, now)
    assert maps.flatten(1).amax(1).tolist() == pytest.approx(case["expected"]["max_per_token"], abs=values)
    _, losses = attend_and_excite_loss(maps)
    assert losses.tolist() == pytest.approx(case["expected"]["loss_per_token"], abs=values)
    loss = evaluate(method, one_layer(attention), now).loss
    assert loss.item() == pytest.approx(case["expected"]["loss"], abs=values)
    assert (loss == 0) == case["expected"]["loss_is_python_zero"]
    expected = case.tensor("grad_attention")
    found = gradient(loss, attention)[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=largest * expected.abs().max().item())


@pytest.mark.parametrize("case", golden_cases("attend_and_excite", "schedule"))
def test_published_step_sizes(case):
    kwargs = case["kwargs"]
    method = AttendAndExcite(step_size=kwargs["scale_factor"], scale_range=tuple(kwargs["scale_range"]), stop=1.0)
    count = kwargs["timesteps"]
    found = [method.plain_step_size(context(GROUPS, index=i, count=count)) for i in range(count)]
    assert found == pytest.approx(case.arrays["step_sizes"].tolist(), rel=1e-12)


@pytest.mark.parametrize("case", golden_cases("attend_and_excite", "update"))
def test_published_update(case):
    """The engine differentiates step size times loss, in float32 where the latents are float16."""
    latents, grad_loss = case.tensor("latents"), case.tensor("grad_loss")
    dtype = torch.promote_types(latents.dtype, torch.float32)
    leaf = latents.to(dtype).requires_grad_()
    move = torch.autograd.grad(case["kwargs"]["step_size"] * (leaf * grad_loss).sum(), leaf)[0]
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6, torch.float16: 4e-3}[latents.dtype]
    updated = (leaf.detach() - move).to(latents.dtype)
    torch.testing.assert_close(updated, case.tensor("updated"), rtol=0, atol=tolerance)


@pytest.mark.parametrize("case", golden_cases("attend_and_excite", "aggregate"))
def test_published_aggregation(case):
    side = case["kwargs"]["resolution"]
    maps = []
    for recorded in case["layers"]:
        size = (round(recorded["pixels"] ** 0.5),) * 2
        layer = Layer(recorded["array"], recorded["place"], recorded["cross"], size)
        maps.append(LayerMap(layer, case.tensor(recorded["array"])))
    method = AttendAndExcite(resolution=side)
    chosen = method.select_layers([m.layer for m in maps])
    captured = AttentionMaps(tuple(m for m in maps if m.layer in chosen))
    found = mean_cross(captured, (side, side))
    assert found.shape == (side, side, maps[0].probabilities.shape[-1])
    torch.testing.assert_close(found, case.tensor("aggregated"), rtol=1e-6, atol=1e-7)


def test_heads_weigh_equally_not_layers():
    size, method = (8, 8), AttendAndExcite(resolution=8)
    layers = [Layer("down", "down", True, size), Layer("up", "up", True, size), Layer("self", "up", False, size)]
    heads = [torch.rand(n, 64, 20) for n in (3, 1, 2)]
    maps = [LayerMap(layer, p) for layer, p in zip(layers, heads, strict=True)]
    chosen = method.select_layers(layers)
    assert chosen == layers[:2]
    expected = torch.cat(heads[:2]).mean(0).reshape(8, 8, 20)
    torch.testing.assert_close(mean_cross(AttentionMaps(tuple(maps)), size), expected)


class Toy:
    """The one-layer model of the refinement vectors and its latents, driven as the engine drives a denoiser."""

    def __init__(self, case, method, now):
        self.case, self.method, self.now = case, method, now
        self.latents = case.tensor("latents")
        self.evaluated: Tensor | None = None

    def maps(self, latents: Tensor) -> AttentionMaps:
        text, wq, wk = (self.case.tensor(name) for name in ("text_embedding", "wq", "wk"))
        pixels = latents[0].flatten(1).T
        logits = (pixels @ wq) @ (text @ wk).transpose(1, 2) / wq.shape[-1] ** 0.5
        return AttentionMaps((LayerMap(Layer("attn2", "up", True, latents.shape[2:]), logits.softmax(-1)),))

    def evaluate(self, step_size: float):
        leaf = self.latents.detach().requires_grad_()
        evaluation = evaluate(self.method, self.maps(leaf), self.now)
        if step_size:
            self.latents = self.latents - step_size * gradient(evaluation.loss, leaf)[0]
        return evaluation

    def refine(self) -> list[float]:
        """Runs the refinement; the loss before every move."""
        losses, generator = [], self.method.refine(self.now)
        step_size = next(generator, None)
        while step_size is not None:
            evaluation = self.evaluate(step_size)
            if step_size:
                losses.append(evaluation.loss.item())
            try:
                step_size = generator.send(Reading(evaluation.loss, evaluation.loss))
            except StopIteration:
                break
        return losses


@pytest.mark.parametrize("case", golden_cases("attend_and_excite", "refinement"))
def test_published_refinement(case):
    kwargs, expected = case["kwargs"], case["expected"]
    method = published_method(
        case,
        step_size=kwargs["scale_factor"],
        stop=min(kwargs["max_iter_to_alter"] / kwargs["timesteps"], 1.0),
        thresholds={kwargs["iteration"]: kwargs["threshold"]},
        max_refinement_steps=kwargs["max_refinement_steps"],
        resolution=kwargs["resolution"],
    )
    toy = Toy(case, method, published_context(case, index=kwargs["iteration"], count=kwargs["timesteps"]))
    tolerance = 1e-6 if toy.latents.dtype == torch.float64 else 1e-5
    assert toy.evaluate(0).loss.item() == pytest.approx(expected["loss_initial"], abs=tolerance)

    losses = toy.refine()
    assert len(losses) == expected["tries"]
    trace = case.arrays["loss_trace"].tolist()
    assert losses == pytest.approx(trace[: len(losses)], abs=tolerance)
    torch.testing.assert_close(toy.latents, case.tensor("latents_after_refinement"), rtol=0, atol=10 * tolerance)

    step_size = method.plain_step_size(toy.now)
    assert len(losses) + (step_size > 0) == expected["updates"]
    assert toy.evaluate(step_size).loss.item() == pytest.approx(expected["loss_after"], abs=tolerance)
    torch.testing.assert_close(toy.latents, case.tensor("latents_out"), rtol=0, atol=10 * tolerance)


@pytest.mark.parametrize(("losses", "moves"), [([0.5], 0), ([0.51, 0.5], 1), ([0.51, 0.51, 0.4], 2)])
def test_refinement_ends_once_a_loss_is_no_larger_than_its_target(losses, moves):
    """Each loss belongs to the latents before the move, the first one to a look."""
    refinement = AttendAndExcite(thresholds={0: 0.5}).refine(context(GROUPS))
    requests = [next(refinement)]
    with pytest.raises(StopIteration):
        for loss in losses:
            requests.append(refinement.send(Reading(loss, loss)))
    assert requests == [0.0] + [20.0] * moves


def test_a_kernel_larger_than_the_maps():
    with pytest.raises(ValueError, match=r"kernel of 17 is too large for maps of \(8, 8\)"):
        prepared(AttendAndExcite(kernel_size=17), random_attention(0), context([[2]]))


def subject_maps(attention):
    return prepared(AttendAndExcite(), attention, context(GROUPS, 12))


@given(attentions, st.permutations(range(3)))
def test_bounds_order_and_gradient(attention, order):
    maps = subject_maps(attention)
    loss, losses = attend_and_excite_loss(maps)
    assert 0 <= loss <= 1
    assert loss == losses.max() == attend_and_excite_loss(maps[order])[0]
    (grad,) = gradient(loss, attention)
    assert grad.isfinite().all()
    assert not grad[..., [0, -1]].any()


@given(attentions)
def test_only_the_worst_subject_is_pulled(attention):
    maps = subject_maps(attention).detach().requires_grad_()
    loss, losses = attend_and_excite_loss(maps)
    (grad,) = gradient(loss, maps)
    worst = losses.argmax()
    assert grad.sum().item() == pytest.approx(-1 if loss > 0 else 0)
    assert not grad[[i for i in range(3) if i != worst]].any()


def test_equal_maxima_share_the_gradient_and_the_first_equal_subject_gets_it():
    maps = torch.zeros(2, 2, 2)
    maps[:, 0] = 0.5
    maps.requires_grad_()
    (grad,) = gradient(attend_and_excite_loss(maps)[0], maps)
    assert grad.tolist() == [[[-0.5, -0.5], [0, 0]], [[0, 0], [0, 0]]]


def test_a_loss_of_zero_has_no_gradient():
    maps = torch.ones(2, 3, 3, requires_grad=True)
    loss, _ = attend_and_excite_loss(maps)
    assert loss == 0
    assert not gradient(loss, maps)[0].any()


def test_a_subject_of_several_tokens():
    attention, now = random_attention(0), context([[(4, 5)]])
    parts = [prepared(AttendAndExcite(smoothing=False), attention, context([[i]])) for i in (4, 5)]
    mean = prepared(AttendAndExcite(smoothing=False), attention, now)
    torch.testing.assert_close(mean, (parts[0] + parts[1]) / 2)
    published = prepared(AttendAndExcite(smoothing=False, variant="reference"), attention, now)
    assert torch.equal(published, torch.cat(parts))


@pytest.mark.parametrize(
    ("variant", "normalize_eot", "drop_padding", "dropped"),
    [
        ("default", None, False, False),
        ("default", None, True, True),
        ("default", False, True, False),
        ("reference", None, True, False),
        ("reference", True, False, True),
    ],
)
def test_when_padding_stays_out_of_the_softmax(variant, normalize_eot, drop_padding, dropped):
    attention, now = random_attention(0), context([[2]], 12, drop_padding=drop_padding)
    method = AttendAndExcite(variant=variant, normalize_eot=normalize_eot, smoothing=False)
    end = 11 if dropped else 19
    expected = torch.softmax(100 * attention[..., 1:end], -1)[..., 1]
    torch.testing.assert_close(prepared(method, attention, now)[0], expected)


def test_a_larger_kernel_keeps_the_size_unless_the_published_code_is_asked_for():
    sizes = {
        variant: prepared(AttendAndExcite(variant=variant, kernel_size=5), random_attention(0), context([[2]])).shape
        for variant in ("default", "reference")
    }
    assert sizes == {"default": (1, 8, 8), "reference": (1, 6, 6)}


def test_published_windows():
    for count in (50, 51):
        now = [context(GROUPS, index=i, count=count) for i in range(count)]
        assert [c.index for c in now if AttendAndExcite().plain_step_size(c)] == list(range(25))
        assert [c.index for c in now if next(AttendAndExcite().refine(c), None) is not None] == [0, 10, 20]


@pytest.mark.parametrize("groups", [[], [[None]], [[2, None]]])
def test_without_subjects_nothing_is_guided(groups):
    method, now = AttendAndExcite(), context(groups)
    assert method.focus(now) == []
    assert evaluate(method, one_layer(random_attention(0)), now).loss == 0


def test_nan_in_the_maps_shows_in_the_loss():
    attention = random_attention(0).detach()
    attention[0, 0, 2] = torch.nan
    assert evaluate(AttendAndExcite(), one_layer(attention), context(GROUPS)).loss.isnan()


def test_shared_tokens_and_zero_maps_are_finite():
    attention = torch.zeros(8, 8, 20, requires_grad=True)
    loss = evaluate(AttendAndExcite(), one_layer(attention), context([[2], [(2, 3)], [2]])).loss
    assert loss.isfinite()
    assert gradient(loss, attention)[0].isfinite().all()
