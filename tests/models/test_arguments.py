"""Constructors name an argument that is wrong before anything fails inside torch."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from diffrec.diffusion.schedules import betas_of
from diffrec.errors import NotFoundError, UsageError
from diffrec.models import (
    BPRMF,
    FPMC,
    HSTU,
    RPG,
    TIGER,
    BERT4Rec,
    BSARec,
    DiffRec,
    DiffuRec,
    DreamRec,
    FlowCF,
    FMRec,
    GRU4Rec,
    GSASRec,
    LDiffRec,
    LightGCN,
    MaskGR,
    MultVAE,
    PreferDiff,
    RuleBridge,
    SASRec,
    SASRecBCE,
    SASRecSS,
    SASRecText,
)

SIZES = {
    BERT4Rec: ["num_items", "embedding_size", "num_blocks", "num_heads", "max_history_length"],
    BSARec: ["num_items", "embedding_size", "num_blocks", "num_heads", "max_history_length", "frequencies"],
    BPRMF: ["num_items", "embedding_size"],
    DiffRec: ["num_items", "num_train_timesteps", "time_embedding_size"],
    DiffuRec: ["num_items", "embedding_size", "num_blocks", "num_heads", "max_history_length", "num_train_timesteps",
               "num_samples", "lr_decay_epochs"],
    DreamRec: ["num_items", "embedding_size", "max_history_length", "num_train_timesteps", "denoiser_layers",
               "num_samples"],
    FMRec: ["num_items", "embedding_size", "num_blocks", "num_heads", "max_history_length",
            "num_inference_steps", "num_samples", "lr_decay_epochs"],
    FPMC: ["num_items", "embedding_size"],
    FlowCF: ["num_items", "num_train_timesteps", "time_embedding_size"],
    GRU4Rec: ["num_items", "embedding_size", "num_layers", "max_history_length"],
    GSASRec: ["num_items", "embedding_size", "num_blocks", "num_heads", "max_history_length", "num_negatives"],
    HSTU: ["num_items", "embedding_size", "num_blocks", "num_heads", "head_size", "max_history_length",
           "num_negatives"],
    LDiffRec: ["num_items", "num_clusters", "num_train_timesteps", "time_embedding_size"],
    LightGCN: ["num_items", "embedding_size", "num_layers"],
    MaskGR: ["num_items", "embedding_size", "num_blocks", "num_heads", "feed_size", "num_beams"],
    MultVAE: ["num_items", "hidden_size", "latent_size", "anneal_steps"],
    PreferDiff: ["num_items", "embedding_size", "num_heads", "max_history_length", "num_train_timesteps",
                 "num_samples"],
    RPG: ["num_items", "embedding_size", "num_blocks", "num_heads", "max_history_length"],
    RuleBridge: [
        "num_items", "embedding_size", "num_blocks", "num_heads", "max_history_length", "num_train_timesteps",
        "rule_window", "rules_per_item", "rule_reach",
    ],
    SASRec: ["num_items", "embedding_size", "num_blocks", "num_heads", "max_history_length"],
    SASRecBCE: ["num_items", "embedding_size", "num_blocks", "num_heads", "max_history_length"],
    SASRecText: ["num_items", "vector_size", "embedding_size", "num_blocks", "num_heads", "max_history_length"],
    SASRecSS: ["num_items", "embedding_size", "num_blocks", "num_heads", "max_history_length", "num_negatives"],
    TIGER: ["num_items", "embedding_size", "num_encoder_blocks", "num_decoder_blocks", "num_heads", "head_size",
            "feed_size", "max_history_length", "num_beams"],
}  # fmt: skip


@pytest.mark.parametrize("size", [0, -2])
@pytest.mark.parametrize(("model", "name"), [(model, name) for model, names in SIZES.items() for name in names])
def test_sizes_are_positive(model, name, size):
    with pytest.raises(UsageError, match=f"^{name} must be .*, got {size}"):
        model(**{"num_items": 9, name: size})


@pytest.mark.parametrize("value", [-0.1, 1.0, math.nan])
@pytest.mark.parametrize(
    ("model", "name"),
    [
        (DiffRec, "dropout"),
        (DreamRec, "dropout"),
        (DreamRec, "condition_dropout"),
        (PreferDiff, "dropout"),
        (PreferDiff, "condition_dropout"),
        (DiffuRec, "dropout"),
        (DiffuRec, "embedding_dropout"),
        (FMRec, "dropout"),
        (FMRec, "embedding_dropout"),
        (SASRec, "dropout"),
        (RuleBridge, "dropout"),
        (SASRecBCE, "dropout"),
        (BERT4Rec, "dropout"),
        (BSARec, "dropout"),
        (BSARec, "attention_dropout"),
        (GRU4Rec, "dropout"),
        (GRU4Rec, "embedding_dropout"),
        (GSASRec, "dropout"),
        (HSTU, "dropout"),
        (HSTU, "embedding_dropout"),
        (MultVAE, "dropout"),
        (FlowCF, "dropout"),
        (LDiffRec, "dropout"),
        (LDiffRec, "autoencoder_dropout"),
    ],
)
def test_dropout_lies_from_0_to_below_1(model, name, value):
    with pytest.raises(UsageError, match=f"^{name} must be a finite number from 0 to below 1, got {value}"):
        model(9, **{name: value})


@pytest.mark.parametrize("model", SIZES)
@pytest.mark.parametrize("name", ["lr", "weight_decay"])
def test_rates_are_not_negative(model, name):
    with pytest.raises(UsageError, match=f"^{name} must be a finite number from 0, got -1"):
        model(9, **{name: -1.0})


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (
            SASRec,
            {"embedding_size": 64, "num_heads": 3},
            "embedding_size must be a multiple of num_heads, got 64 and 3",
        ),
        (SASRecBCE, {"num_heads": 3}, "embedding_size must be a multiple of num_heads, got 50 and 3"),
        (FMRec, {"num_heads": 3}, "embedding_size must be a multiple of num_heads, got 128 and 3"),
        (FMRec, {"time_scale": 2.0}, "scale must be a finite number from -1"),
        (FMRec, {"ranking": -1.0}, "ranking must be a finite number from 0, got -1"),
        (BERT4Rec, {"num_heads": 3}, "embedding_size must be a multiple of num_heads, got 64 and 3"),
        (BERT4Rec, {"max_history_length": 1}, "max_history_length must be a whole number from 2, got 1"),
        (BERT4Rec, {"mask_share": 1.0}, "mask_share must be a finite number from 0 to below 1, got 1.0"),
        (BERT4Rec, {"last_share": 1.5}, "last_share must be a finite number from 0 up to 1, got 1.5"),
        (BSARec, {"num_heads": 3}, "embedding_size must be a multiple of num_heads, got 64 and 3"),
        (BSARec, {"filter_share": 1.5}, "filter_share must be a finite number from 0 up to 1, got 1.5"),
        (GRU4Rec, {"loss": "bpr-max"}, "loss 'bpr-max' needs drawn negatives, got num_negatives = 0"),
        (GRU4Rec, {"logq": 0.5}, "logq = 0.5 needs drawn negatives, got num_negatives = 0"),
        (GRU4Rec, {"num_negatives": -1}, "num_negatives must be a whole number from 0, got -1"),
        (GRU4Rec, {"sample_power": -1.0}, "sample_power must be a finite number from 0, got -1"),
        (GSASRec, {"num_heads": 3}, "embedding_size must be a multiple of num_heads, got 128 and 3"),
        (GSASRec, {"calibration": 1.5}, "calibration must be a finite number from 0 up to 1, got 1.5"),
        (HSTU, {"temperature": 0.0}, "temperature must be a finite number above 0, got 0.0"),
        (PreferDiff, {"embedding_size": 7}, "embedding_size must be even, at least 4 and a multiple of num_heads = 2"),
        (PreferDiff, {"embedding_size": 8, "num_heads": 3}, "embedding_size must be .* a multiple of num_heads = 3"),
        (PreferDiff, {"embedding_size": 8, "sharpness": -1.0}, "sharpness must be a finite number from 0, got -1"),
        (DiffuRec, {"embedding_size": 6}, "embedding_size must be a multiple of num_heads, got 6 and 4"),
        (DiffuRec, {"lambda_std": -1.0}, "lambda_std must be a finite number from 0, got -1"),
        (DreamRec, {"embedding_size": 7}, "embedding_size must be even and at least 4, got 7"),
        (DreamRec, {"embedding_size": 2}, "embedding_size must be even and at least 4, got 2"),
        (DreamRec, {"denoiser_layers": 3}, "denoiser_layers must be 1 or 2, got 3"),
        (DreamRec, {"guidance_scale": math.inf}, "guidance_scale must be a finite number, got inf"),
        (DreamRec, {"guidance_scale": math.nan}, "guidance_scale must be a finite number, got nan"),
        (DreamRec, {"num_inference_steps": 501}, r"num_inference_steps must be a whole number in 1\.\.500, got 501"),
        (DiffRec, {"num_inference_steps": 0}, r"num_inference_steps must be a whole number in 1\.\.5, got 0"),
        (DiffRec, {"dims": ()}, r"dims must be whole numbers, at least one, from 1, got \(\)"),
        (DiffRec, {"dims": (200, 0)}, r"dims must be whole numbers, at least one, from 1, got \(200, 0\)"),
        (DiffRec, {"time_embedding_size": 1}, "time_embedding_size must be a whole number from 2, got 1"),
        (DiffRec, {"noise_max": math.inf}, "noise_max must be a finite number from 0, got inf"),
        (DiffRec, {"noise_min": 9e3, "noise_max": 9e4}, "betas must lie strictly between 0 and 1"),
        (FlowCF, {"num_inference_steps": 10}, r"num_inference_steps must be a whole number in 1\.\.9, got 10"),
        (
            RuleBridge,
            {"embedding_size": 9},
            "embedding_size must be an even multiple of num_heads and at least 4, got 9",
        ),
        (RuleBridge, {"num_inference_steps": 5}, r"num_inference_steps must be a whole number in 1\.\.4, got 5"),
        (RuleBridge, {"variance": -1.0}, "variance must be a finite number from 0, got -1"),
        (RuleBridge, {"rule_floor": 0.0}, "rule_floor must be a finite number above 0, got 0"),
        (RuleBridge, {"num_draws": -1}, "num_draws must be a whole number from 0, got -1"),
        (LDiffRec, {"num_clusters": 10}, "num_clusters must be at most every width and the items, 9, got 10"),
        (LDiffRec, {"encoder_dims": ()}, r"encoder_dims must be whole numbers, at least one, from 1, got \(\)"),
        (LDiffRec, {"kl_batches": -1}, "kl_batches must be a whole number from 0, got -1"),
    ],
)
def test_what_would_fail_deep_in_torch_is_named(model, arguments, message):
    with pytest.raises(UsageError, match=f"^{message}"):
        model(9, **arguments)


def test_the_edges_are_allowed():
    DiffRec(1, dims=(1,), num_train_timesteps=1, noise_scale=0.0, dropout=0.0)
    DreamRec(1, embedding_size=4, max_history_length=1, num_train_timesteps=1, guidance_scale=-1.0)
    SASRec(1, embedding_size=1, num_heads=1, max_history_length=1, dropout=0.0, lr=0.0)


def test_an_unknown_schedule_names_the_nearest():
    with pytest.raises(NotFoundError, match=r"no schedule 'liner'; there are: .*; did you mean 'linear'\?"):
        betas_of("liner", 5)


def test_unknown_words_name_the_nearest():
    """In a process of its own, where no hook checks annotations first."""
    script = """
        from diffrec.baselines import ItemKNN, SequentialRules
        from diffrec.models import DiffRec, DreamRec, GRU4Rec, PreferDiff
        for model, arguments in (
            (DreamRec, {"schedule": "cosin"}),
            (DreamRec, {"readout": "cosinus"}),
            (PreferDiff, {"fidelity": "origin"}),
            (DiffRec, {"prediction_type": "epsilom"}),
            (DiffRec, {"schedule": "linear_variances"}),
            (GRU4Rec, {"loss": "bpr_max"}),
            (SequentialRules, {"normalisation": "cosine"}),
            (ItemKNN, {"neighbours_of": "histories"}),
        ):
            try:
                model(9, **arguments)
            except Exception as error:
                print(type(error).__name__, error)
    """
    lines = subprocess.check_output([sys.executable, "-c", "if True:" + script], text=True).splitlines()
    assert [line.split("; there are: ")[0] for line in lines] == [
        "NotFoundError no schedule 'cosin'",
        "NotFoundError no readout 'cosinus'",
        "NotFoundError no fidelity 'origin'",
        "NotFoundError no prediction type 'epsilom'",
        "NotFoundError no schedule 'linear_variances'",
        "NotFoundError no loss 'bpr_max'",
        "NotFoundError no normalisation 'cosine'",
        "NotFoundError no kind of neighbours_of 'histories'",
    ]
    near = [line.split("did you mean ")[1] for line in lines[:6]]
    assert near == ["'cosine'?", "'cosine'?", "'original'?", "'epsilon'?", "'linear_variance'?", "'bpr-max'?"]
