"""L-DiffRec against its official code: the walk in the latent space, the loss, its two weights; and its clusters."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from diffrec.baselines import Popularity
from diffrec.data.batch import Batch
from diffrec.data.datamodule import InteractionDataModule
from diffrec.data.ragged import Ragged
from diffrec.data.splits import TrainingPart
from diffrec.data.synthetic import synthetic
from diffrec.diffusion.sampler import sample
from diffrec.diffusion.timesteps import TimestepDraw
from diffrec.errors import UsageError
from diffrec.models import LDiffRec, LightGCN
from diffrec.spaces.item_clusters import k_means
from diffrec.zoo import load, save

RUNS = ["T5", "T40"]


@pytest.fixture
def arrays(golden):
    return golden("ldiffrec")


def model_of(a, run, **arguments):
    """Autoencoder c2 with the stored denoiser; the stored weights are per cluster."""
    steps, scale, low, high, _ = a[f"pipe.{run}.params"].tolist()
    model = LDiffRec(
        37, encoder_dims=(10,), dims=(14,), num_train_timesteps=int(steps), noise_scale=scale, noise_min=low,
        noise_max=high, diffusion_weight=0.03, **arguments,
    ).eval()  # fmt: skip
    model.space.cluster(a["labels"])
    (encoder,), (decoder,) = model.space.encoder, model.space.decoder
    with torch.no_grad():
        for cluster in (0, 1):
            rows, columns = ((of == cluster).nonzero()[:, 0] for of in (encoder.of_output, encoder.of_input))
            encoder.weight[rows[:, None], columns] = a[f"c2.enc.{cluster}.0.weight"]
            encoder.bias[rows] = a[f"c2.enc.{cluster}.0.bias"]
        decoder.weight[a["c2.item_order"]] = a["c2.dec.0.0.weight"]
        decoder.bias[a["c2.item_order"]] = a["c2.dec.0.0.bias"]
    names = {"time": "time", "layer.0": "layers.0", "layer.1": "layers.1"}
    state = {f"{new}.{p}": a[f"latent_net.{old}.{p}"] for old, new in names.items() for p in ("weight", "bias")}
    model.denoiser.load_state_dict(state)
    return model


def history_of(x):
    """Histories whose interaction vectors are the rows of x."""
    rows = [row.nonzero()[:, 0] + 1 for row in x]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


@pytest.mark.parametrize("run", RUNS)
def test_the_walk_in_the_latent_space(arrays, run):
    model, history, order = model_of(arrays, run), history_of(arrays["x"]), arrays["c2.item_order"]
    scores = model.score(history)[:, order]
    torch.testing.assert_close(scores, arrays[f"pipe.{run}.scores"], rtol=1e-5, atol=1e-6)
    z = sample(model.denoiser, model.process, model.space.encode(history))
    torch.testing.assert_close(z, arrays[f"pipe.{run}.z_recon"], rtol=1e-5, atol=1e-6)
    assert torch.equal(model.recommend(history, 10).items - 1, arrays[f"pipe.{run}.top10"])


@pytest.mark.parametrize("reweight", [True, False])
@pytest.mark.parametrize("run", RUNS)
def test_loss(arrays, run, reweight, monkeypatch):
    """After 40 epochs and 30 batches; the stored loss is the one with reweight=True."""
    model = model_of(arrays, run, reweight=reweight)
    drawn = iter([arrays["c2.eps"], arrays[f"pipe.{run}.noise"]])
    steps = TimestepDraw(arrays[f"pipe.{run}.t"], torch.ones(5))
    monkeypatch.setattr(torch, "randn_like", lambda x: next(drawn))
    monkeypatch.setattr(model.timesteps, "draw", lambda *_: steps)
    monkeypatch.setattr(LDiffRec, "current_epoch", 40)
    monkeypatch.setattr(LDiffRec, "global_step", 30)
    seen = []
    monkeypatch.setattr(model.timesteps, "update", lambda t, loss: seen.append(loss))
    loss = model.training_loss(Batch(history_of(arrays["x"]), torch.zeros(5, 0, dtype=torch.int64)))
    bound = arrays[f"pipe.{run}.nll"] + 0.15 * arrays["c2.kl"]
    if reweight:
        torch.testing.assert_close(seen[0].double(), arrays[f"pipe.{run}.diff_loss"], rtol=1e-5, atol=0)
        torch.testing.assert_close(loss[None].double(), arrays[f"pipe.{run}.total"], rtol=1e-6, atol=0)
    else:
        torch.testing.assert_close(loss, seen[0].mean() + 0.0276 * bound[0], rtol=1e-6, atol=0)


@pytest.mark.parametrize("start", [0.03, 0.05, 0.07])
def test_the_weight_of_the_diffusion_falls_by_epochs(arrays, start, monkeypatch):
    model, weights = LDiffRec(9, diffusion_weight=start), []
    for epoch in arrays["anneal.epochs"].tolist():
        monkeypatch.setattr(LDiffRec, "current_epoch", epoch)
        weights.append(model.lambda_())
    torch.testing.assert_close(torch.tensor(weights).double(), arrays[f"anneal.lamda_{start}"], rtol=1e-6, atol=0)


def test_the_weight_of_the_divergence_rises_by_batches(arrays, monkeypatch):
    model, weights = LDiffRec(9), []
    for batch in arrays["anneal.batches"].tolist():
        monkeypatch.setattr(LDiffRec, "global_step", batch)
        weights.append(model.gamma())
    torch.testing.assert_close(torch.tensor(weights).double(), arrays["anneal.kl"], rtol=1e-6, atol=0)


def test_weights_that_do_not_move(arrays):
    model = LDiffRec(9, diffusion_weight=0.03, diffusion_weight_epochs=0, kl_batches=0)
    assert [model.lambda_(), model.gamma()] == pytest.approx(arrays["anneal.off"].tolist())


def fit(model, data, epochs, checkpoint=None):
    trainer = pl.Trainer(
        max_epochs=epochs, limit_val_batches=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    return trainer


@pytest.fixture(scope="module")
def data():
    return InteractionDataModule.of(synthetic(num_users=90, num_items=40), "loo-full-masked@1", batch_size=30)


def small(**arguments):
    torch.manual_seed(0)
    return LDiffRec(40, encoder_dims=(8,), dims=(8,), **arguments)


def test_both_weights_go_on_where_a_run_stopped(data, tmp_path):
    first = fit(small(), data, 2)
    first.save_checkpoint(tmp_path / "last.ckpt")
    steps = []

    class Watched(LDiffRec):
        def training_loss(self, batch):
            steps.append((self.lambda_(), self.gamma()))
            return super().training_loss(batch)

    torch.manual_seed(0)
    resumed = Watched(40, encoder_dims=(8,), dims=(8,))
    fit(resumed, data, 3, tmp_path / "last.ckpt")
    assert steps == [(pytest.approx(0.05 * (1 - 2 / 500)), batch / 200) for batch in (6, 7, 8)]


def test_each_part_has_its_learning_rate():
    model = small(autoencoder_lr=0.0, lr=0.1)
    optimizer = model.configure_optimizers()
    before = {name: p.clone() for name, p in model.named_parameters()}
    model.training_loss(Batch(torch.randint(1, 41, (8, 5)), torch.zeros(8, 0, dtype=torch.int64))).backward()
    optimizer.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if name.startswith("denoiser.")}


def block(items: range, users: int) -> list[list[int]]:
    """Users who have some of these items and no others."""
    generator = torch.Generator().manual_seed(users)
    return [(torch.randperm(len(items), generator=generator)[:4] + items[0]).tolist() for _ in range(users)]


def test_items_of_the_same_users_share_a_cluster():
    model = small()
    model.prepare(Ragged.from_rows(block(range(1, 26), 80) + block(range(26, 41), 40)))
    of_item = model.space.encoder[0].of_input.tolist()
    assert len({*of_item[:25]}) == len({*of_item[25:]}) == 1
    assert of_item[0] != of_item[39]
    assert (~model.space.encoder[0].inside()).sum() > 0


class WithVectors(Popularity):
    """Stands for a model with an item table: the last ten items lie apart."""

    @property
    def item_embeddings(self):
        return (torch.arange(40) >= 30).float()[:, None] + torch.linspace(0, 0.1, 40)[:, None]


def test_vectors_of_another_model_may_be_clustered(monkeypatch):
    monkeypatch.setattr("diffrec.load", {"entry": WithVectors(40), "other": WithVectors(39)}.__getitem__, raising=False)
    model = small(item_vectors="entry")
    model.prepare(Ragged.from_rows([[1, 2]]))
    of_item = model.space.encoder[0].of_input
    assert torch.equal(of_item == of_item[39], torch.arange(40) >= 30)
    with pytest.raises(UsageError, match="other has 39 items, the data have 40"):
        small(item_vectors="other").prepare(Ragged.from_rows([[1, 2]]))


def test_items_are_clustered_by_an_entry_of_lightgcn(tmp_path, data):
    source = LightGCN(40, embedding_size=4)
    source.prepare(data.split.train)
    model = small(item_vectors=str(save(source, tmp_path / "entry")))
    model.prepare(data.split.train)
    expected = k_means(source.item_embeddings.numpy(), model.space.num_clusters, model.cluster_seed)
    assert model.space.encoder[0].of_input.tolist() == expected.tolist()


def test_vectors_that_were_learnt_from_what_will_be_asked_are_refused(monkeypatch, data):
    source = WithVectors(40)
    monkeypatch.setattr("diffrec.load", lambda name: source, raising=False)
    part = data.split.part
    assert part is not None
    source.trained_on = TrainingPart(part.dataset, "gts-last@1")
    with pytest.raises(UsageError, match=r"entry was trained on gts-last@1 of .*; what loo-full-masked@1 asks may be"):
        small(item_vectors="entry").prepare_on(data.split)
    source.trained_on = part
    small(item_vectors="entry").prepare_on(data.split)


def test_an_entry_without_item_vectors_is_refused(tmp_path, data):
    folder = save(Popularity(40), tmp_path / "entry")
    with pytest.raises(UsageError, match="entry is a Popularity, which has no item vectors"):
        small(item_vectors=str(folder)).prepare(data.split.train)


def test_clusters_are_part_of_an_entry(data, tmp_path):
    model = small()
    fit(model, data, 1)
    loaded = load(save(model, tmp_path / "entry"))
    history = torch.tensor([[3, 9, 0], [40, 1, 7]])
    assert torch.equal(loaded.space.encoder[0].of_input, model.space.encoder[0].of_input)
    assert torch.equal(loaded.recommend(history).items, model.recommend(history).items)
