"""The cluster-wise autoencoder of L-DiffRec against its official code."""

from __future__ import annotations

import pytest
import torch

from diffrec.errors import UsageError
from diffrec.spaces.latent import LatentSpace, shared_out

KINDS = {
    "c2": (2, (10,), (), "tanh"),
    "c2deep": (2, (16, 10), (16,), "tanh"),
    "c1": (1, (16, 10), (14,), "tanh"),
    "c2relu": (2, (10,), (), "relu"),
}


def space_of(arrays, kind):
    """With the stored weights, which are per cluster and, where one layer decodes, in the order of clusters."""
    clusters, encoder_dims, decoder_dims, activation = KINDS[kind]
    space = LatentSpace(37, clusters, encoder_dims, decoder_dims, activation, dropout=0.0)
    if clusters > 1:
        space.cluster(arrays["labels"])
    for part, layers in (("enc", space.encoder), ("dec", space.decoder)):
        for depth, layer in enumerate(layers):
            for cluster in range(layer.num_clusters):
                rows, columns = (of == cluster for of in (layer.of_output, layer.of_input))
                rows, columns = rows.nonzero()[:, 0], columns.nonzero()[:, 0]
                if part == "dec" and clusters > layer.num_clusters:
                    rows = arrays[f"{kind}.item_order"]
                with torch.no_grad():
                    layer.weight[rows[:, None], columns] = arrays[f"{kind}.{part}.{cluster}.{depth}.weight"]
                    layer.bias[rows] = arrays[f"{kind}.{part}.{cluster}.{depth}.bias"]
    return space


def history_of(x):
    """Histories whose interaction vectors are the rows of x."""
    rows = [row.nonzero()[:, 0] + 1 for row in x]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)


@pytest.mark.parametrize("kind", KINDS)
def test_encoder_and_decoder(golden, kind):
    a = golden("ldiffrec")
    space, order = space_of(a, kind), a.get(f"{kind}.item_order", torch.arange(37))
    assert torch.equal(a["x"][:, order], a[f"{kind}.x_permuted"])
    mean = space.encode(history_of(a["x"]))
    torch.testing.assert_close(mean, a[f"{kind}.mu"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(space.score(mean)[:, order], a[f"{kind}.decoded"], rtol=1e-5, atol=1e-6)
    posterior = space.posterior(a["x"])
    torch.testing.assert_close(posterior.sample(a[f"{kind}.eps"]), a[f"{kind}.z_sampled"], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(posterior.divergence().mean()[None], a[f"{kind}.kl"], rtol=1e-6, atol=0)
    assert space.shape == (10,)


@pytest.mark.parametrize("kind", ["c2", "c2deep", "c2relu"])
def test_latents_are_shared_out_as_stored(golden, kind):
    a = golden("ldiffrec")
    assert torch.equal(shared_out(10, a["labels"].bincount()).bincount(), a[f"{kind}.latent_split"])


@pytest.mark.parametrize(
    ("size", "counts", "expected"),
    [
        (10, [22, 15], [5, 5]),
        (300, [2320, 490], [247, 53]),
        (4, [1, 99], [1, 3]),
        (4, [97, 1, 2], [2, 1, 1]),  # floor(3.88) = 3 and at least 1 leave nothing for the last
        (3, [100, 0, 0], [1, 1, 1]),
    ],
)
def test_every_cluster_gets_a_unit(size, counts, expected):
    assert shared_out(size, torch.tensor(counts)).bincount().tolist() == expected


@pytest.mark.parametrize(("decoder_dims", "reached"), [((), 9), ((6,), 4)])
def test_an_item_moves_the_latents_of_its_cluster_only(decoder_dims, reached):
    torch.manual_seed(0)
    space = LatentSpace(9, 2, (8, 5), decoder_dims)
    space.eval().cluster(torch.tensor([0, 1, 1, 0, 1, 0, 1, 0, 1]))  # 4 items get 2 latents
    mean = space.encode(torch.tensor([[2], [3], [1]]))  # items of clusters 1, 1 and 0
    assert torch.equal(mean[0, :2], mean[1, :2])
    assert (mean[0, 2:] != mean[1, 2:]).all()
    torch.testing.assert_close(space.encode(torch.tensor([[2, 1]]))[0, 2:], mean[0, 2:])
    moved = space.score(torch.eye(5)[:1]) != space.score(torch.zeros(1, 5))
    assert moved.sum() == reached


def test_recency_weighs_what_is_encoded():
    space = LatentSpace(5, 1, (3,), recency=(0.2, 1.0)).eval()
    expected = space.posterior(torch.tensor([[0, 0.6, 0, 0.2, 1.0]])).mean
    torch.testing.assert_close(space.encode(torch.tensor([[4, 2, 5, 0]])), expected)


def test_arguments_that_cannot_be_are_named():
    with pytest.raises(UsageError, match=r"num_clusters must be at most every width and the items, 4, got 5"):
        LatentSpace(9, 5, (8, 6), (4,))
    with pytest.raises(UsageError, match="encoder_dims must be whole numbers, at least one"):
        LatentSpace(9, 1, ())
