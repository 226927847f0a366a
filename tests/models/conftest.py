"""What the tests of models share: how good one is after training on generated walks; the arrays of DiffuRec's kin."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import pytorch_lightning as pl
import torch

from diffrec.baselines import Popularity
from diffrec.data.datamodule import InteractionDataModule
from diffrec.data.synthetic import synthetic
from diffrec.recommender import Recommender

RENAMED = {
    "item_table": "space.table.weight",
    "norm_items": "conditioner.norm",
    "norm_out": "denoiser.norm",
    "time.fc1": "denoiser.time.0",
    "time.fc2": "denoiser.time.2",
    "aux.fc1": "decoder.0",
    "aux.fc2": "decoder.2",
}
IN_BLOCK = {"attn.o": "out", "norm_attn": "norm_attention", "norm_ffn": "norm_feed", "ffn.fc1": "feed_in",
            "ffn.fc2": "feed_out"}  # fmt: skip


@pytest.fixture(scope="session")
def ndcg() -> Callable[..., float]:
    """`ndcg(model, data, epochs, *callbacks)`: test NDCG@10 after training."""

    def measure(model: Recommender, data: InteractionDataModule, epochs: int, *callbacks: pl.Callback) -> float:
        trainer = pl.Trainer(
            max_epochs=epochs, limit_val_batches=0, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, accelerator="cpu", callbacks=list(callbacks),
        )  # fmt: skip
        torch.manual_seed(0)
        trainer.fit(model, datamodule=data)
        return trainer.test(model, datamodule=data, verbose=False)[0]["test/ndcg@10"]

    return measure


@pytest.fixture(scope="session")
def walks() -> Callable[[int], InteractionDataModule]:
    """`walks(batch_size)`: generated walks over 100 items."""
    return lambda batch_size: InteractionDataModule.of(synthetic(), "loo-full-masked@1", batch_size=batch_size)


@pytest.fixture(scope="session")
def popular(ndcg, walks) -> float:
    """What popularity reaches on them."""
    data = walks(64)
    return ndcg(Popularity(data.num_items), data, 1)


@pytest.fixture
def load_network():
    """`load_network(model, arrays, {"block": "denoiser.blocks"}, **changed)`: the weights of `net.*`, all of them."""

    def load(model, arrays, stacks, **changed):
        weights = {name.removeprefix("net."): value for name, value in arrays.items() if name.startswith("net.")}
        weights.update(changed)
        renamed = dict(RENAMED)
        blocks = sorted({tuple(name.split(".")[:2]) for name in weights if name.split(".")[0] in stacks})
        for stack, block in blocks:
            ours = f"{stacks[stack]}.{block}"
            renamed.update({f"{stack}.{block}.{old}": f"{ours}.{new}" for old, new in IN_BLOCK.items()})
            for kind in ("weight", "bias"):
                parts = [weights.pop(f"{stack}.{block}.attn.{part}.{kind}") for part in "qkv"]
                weights[f"{ours}.qkv.{kind}"] = torch.cat(parts)
        state = {}
        for name, value in weights.items():
            stem = max((old for old in renamed if name.startswith(old)), key=len, default="")
            state[renamed.get(stem, "") + name[len(stem) :]] = value
        model.load_state_dict(state, strict=False)
        assert set(state) == {name for name, _ in model.named_parameters()}
        return model

    return load


@pytest.fixture
def from_the_right():
    """Left-padded items (batch, slots) with the padding behind them."""

    def moved(items):
        sizes = (items > 0).sum(1, keepdim=True)
        return items.gather(1, (torch.arange(items.shape[1]) + items.shape[1] - sizes) % items.shape[1])

    return moved


@pytest.fixture
def shifted():
    """What belongs to left-padded slots (..., slots, dim), put where our right-padded ones are."""

    def moved(slots, history):
        sizes = (history > 0).sum(1)
        return torch.stack([row.roll(int(size), 0) for row, size in zip(slots, sizes, strict=True)])

    return moved


@pytest.fixture
def close():
    """Equal up to rounding in float32."""

    def compare(got, expected, rtol=1e-4, atol=1e-5):
        torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)

    return compare
