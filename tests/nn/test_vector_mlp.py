"""DiffRec's MLP against its formula, and the same network on coordinates."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear, normalize

from diffrec.nn.time_embedding import cosine_sine
from diffrec.nn.vector_mlp import VectorMLP

DIM = 13


def network(dims: tuple[int, ...] = (6, 4), normalise: bool = False) -> VectorMLP:
    torch.manual_seed(0)
    model = VectorMLP(DIM, dims, time_embedding_size=5, dropout=0.5, normalise=normalise).eval()
    for layer in model.layers:
        torch.nn.init.normal_(layer.bias)  # biases that are seen
    return model


def vectors(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, DIM, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize(("dims", "sizes"), [((6,), [13, 6, 13]), ((6, 4), [13, 4, 6, 4, 13])])
def test_tanh_between_linear_layers_over_state_and_time(dims, sizes, normalise):
    model, x, t = network(dims, normalise), vectors(), torch.tensor([0, 4, 2])
    assert [layer.out_features for layer in model.layers] == sizes[1:]
    z = torch.cat([normalize(x) if normalise else x, model.time(cosine_sine(t, 5))], dim=1)
    for place, layer in enumerate(model.layers):
        z = linear(z if place == 0 else torch.tanh(z), layer.weight, layer.bias)
    torch.testing.assert_close(model(x, t), z, rtol=1e-5, atol=1e-5)


def test_dropout_hits_the_vector_and_not_the_time():
    model, x, t = network().train(), vectors(), torch.tensor([1])
    assert not torch.equal(model(x, t), model(x, t))
    zero = torch.zeros_like(x)
    assert torch.equal(model(zero, t), model(zero, t))


def test_weights_start_by_fan_and_biases_near_zero():
    torch.manual_seed(0)
    model = VectorMLP(400, (300,))
    for layer in (*model.layers, model.time):
        fan_out, fan_in = layer.weight.shape
        assert layer.weight.std().item() == pytest.approx((2 / (fan_in + fan_out)) ** 0.5, rel=0.2)
        assert 0 < layer.bias.abs().max() < 0.006


@pytest.mark.parametrize("noisy", [False, True])
@pytest.mark.parametrize("dims", [(6,), (6, 4)])
def test_a_loop_on_coordinates_is_the_loop_on_vectors(dims, noisy):
    """Any linear update x <- a f(x) + b x + c x_start, as every scheduler makes them."""
    model, x = network(dims), vectors()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        compact = model.compact(x, noisy)
        state, vector = compact.start, x
        torch.testing.assert_close(compact.expand(state), x)
        for step in reversed(range(8)):
            a, b, c = torch.randn(3, generator=generator) / 2
            t = torch.tensor([step])
            state = a * compact(state, t) + b * state + c * compact.start
            vector = a * model(vector, t) + b * vector + c * x
        torch.testing.assert_close(compact.expand(state), vector, rtol=1e-4, atol=1e-5)


def test_noise_is_met_by_the_first_layer_only():
    model, x = network((6,)), vectors(50_000)
    with torch.no_grad():
        compact = model.compact(x, noisy=True)
        generator = torch.Generator().manual_seed(3)
        state = compact.noise(lambda size: torch.randn(50_000, size, generator=generator))
        first, _ = model.first_weights()
        assert (state[:, :-6] == 0).all()
        torch.testing.assert_close(state[:, -6:].T.cov(), first @ first.T, rtol=0.05, atol=0.02)


def optimiser_step(model: VectorMLP, fused: bool) -> None:
    model(vectors(), torch.tensor([1])).square().mean().backward()
    torch.optim.AdamW(model.parameters(), lr=0.1, fused=fused).step()


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_products_follow_an_optimiser(fused, training):
    """A fused step changes weights without raising their version."""
    model = network()
    model.catalogue_products()
    optimiser_step(model.train(training), fused)
    x, t = vectors(), torch.tensor([1])
    with torch.no_grad():
        compact = model.eval().compact(x, noisy=False)
        torch.testing.assert_close(compact.expand(compact(compact.start, t)), model(x, t))


def test_products_are_kept_between_requests():
    model = network()
    with torch.inference_mode():
        first = model.catalogue_products()
        factor = first.noise_factor
    assert model.catalogue_products() is first
    torch.testing.assert_close(factor @ factor, model.first_weights()[0] @ model.first_weights()[0].T)
    model.load_state_dict({name: 2 * value for name, value in model.state_dict().items()})
    torch.testing.assert_close(model.catalogue_products().product, 4 * first.product)


def test_requests_in_and_out_of_inference_mode_share_products():
    model, x = network(), vectors()
    with torch.inference_mode():
        compact = model.compact(x, noisy=False)
        inside = compact.expand(compact(compact.start, torch.tensor([1])))
    compact = model.compact(x, noisy=False)
    outside = compact.expand(compact(compact.start, torch.tensor([1])))
    assert torch.equal(inside, outside)
    assert not outside.requires_grad  # nothing is half differentiable
