"""Students: what they begin with, what they learn, what stays the teacher's, and who cannot teach.

What consistency means is tested where the teacher's way is known, in test_consistency.py."""

from __future__ import annotations

import pytest
import pytorch_lightning as pl
import torch

from diffrec.data.batch import Batch
from diffrec.data.datamodule import InteractionDataModule
from diffrec.data.synthetic import synthetic
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import NotFoundError, UsageError
from diffrec.models import ADRec, DiffRec, DiffuRec, DreamRec, FMRec, PreferDiff, SASRec
from diffrec.training.build import build
from diffrec.training.checkpoint_io import read_checkpoint
from diffrec.training.fit import fit
from diffrec.zoo import save
from diffrec.zoo.distillation import Consistency, Distillation, Walks, teacher_of

HISTORY = torch.tensor([[3, 7, 5, 2], [5, 1, 0, 0], [9, 0, 0, 0], [1, 2, 3, 0]])


def make(cls, seed=0, **changed):
    """A small untrained model."""
    torch.manual_seed(seed)
    sizes = {"embedding_size": 8, "max_history_length": 6, "num_inference_steps": 4}
    return cls(100, **{**sizes, **changed}).eval()


@pytest.fixture(scope="module")
def dataset():
    return synthetic(num_users=80)


@pytest.fixture(scope="module")
def data(dataset):
    return InteractionDataModule.of(dataset, "loo-full-masked@1", batch_size=128)


@pytest.fixture
def entry(dataset, tmp_path):
    """`entry(model)`: where it is saved."""
    return lambda model: str(save(model, tmp_path / type(model).__name__, dataset=dataset))


def taught(student, teacher, data, epochs=1, **settings):
    """The student after some epochs."""
    trainer = pl.Trainer(
        max_epochs=epochs, limit_val_batches=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu", callbacks=[Distillation(teacher, **settings)],
    )  # fmt: skip
    trainer.fit(student.train(), datamodule=data)
    return student.eval()


FAMILY = {
    "dreamrec": (DreamRec, {"num_train_timesteps": 20}),
    "two layers": (DreamRec, {"num_train_timesteps": 20, "denoiser_layers": 2}),
    "preferdiff": (PreferDiff, {"num_train_timesteps": 20}),
    "diffurec": (DiffuRec, {"num_blocks": 1, "lambda_mean": 0.5}),
    "fmrec": (FMRec, {"num_blocks": 1, "lambda_mean": 0.5, "decoder_dims": (4,)}),
    "adrec": (ADRec, {"state_weight": 0.5, "encoder_blocks": 1, "num_blocks": 1}),
}


def distance(student, teacher):
    """Mean squared distance of what the two generate from the same noise, relative to how much that varies."""

    def generated(model):
        noise = RequestNoise.from_keys(torch.arange(100))
        x = model.process.prior((8,), noise)
        return Walks(model, student).ends(HISTORY.repeat(25, 1), x, RequestNoise(noise.state, noise.draws))

    ends = generated(teacher)
    return float((generated(student) - ends).square().mean() / ends.var(0).mean())


LEARNT = [(name, 1, "walk") for name in FAMILY] + [(name, 2, "walk") for name in ("dreamrec", "two layers")]
LEARNT += [(name, 1, "consistency") for name in FAMILY]


@pytest.mark.parametrize(("name", "steps", "objective"), LEARNT)
def test_a_student_comes_closer_to_where_its_teacher_ends(name, steps, objective, data, entry):
    cls, settings = FAMILY[name]
    guided = {"guidance_scale": 2.0} if cls in (DreamRec, PreferDiff) else {}
    unguided = {"guidance_scale": 1.0} if guided else {}
    teacher = make(cls, **settings, **guided)
    student = make(cls, 1, **settings, **unguided, num_inference_steps=steps, lr=3e-3)
    path = entry(teacher)
    start = make(cls, 2, **settings, **unguided, num_inference_steps=steps)
    start.load_state_dict(teacher.state_dict())
    taught(student, path, data, epochs=3, objective=objective)
    if objective == "consistency" and teacher.eta is not None:
        teacher.eta = 0.0  # its way is that of DDIM
    assert torch.equal(student.space.table.weight, teacher.space.table.weight)
    assert all(p.requires_grad for p in student.parameters())
    assert student.taught is None
    assert student.denoiser_calls == steps
    assert distance(student, teacher) < 0.8 * distance(start, teacher)


@pytest.mark.parametrize("name", FAMILY)
def test_under_autocast_the_loss_is_that_in_float32_up_to_rounding(name):
    cls, settings = FAMILY[name]
    teacher, student, batch = make(cls, **settings), make(cls, 1, **settings), Batch(HISTORY, HISTORY)
    for taught in (Walks(teacher, student), Consistency(teacher, student, 0.5)):
        losses = []
        for enabled in (False, True):
            torch.manual_seed(0)
            with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
                losses.append(taught(batch))
        losses[1].backward()
        assert losses[1].dtype == torch.float32
        torch.testing.assert_close(losses[1], losses[0], rtol=0.01, atol=0)


def test_one_linear_layer_learns_the_whole_walk():
    """DreamRec's walk is affine, and so is its student: nothing is left but what the optimiser has not reached."""
    teacher = make(DreamRec, num_train_timesteps=20, guidance_scale=2.0)
    student = make(DreamRec, num_train_timesteps=20, guidance_scale=1.0, num_inference_steps=1)
    student.load_state_dict(teacher.state_dict())
    optimizer, loss = torch.optim.Adam(student.denoiser.parameters(), lr=3e-2), Walks(teacher, student)
    batch = Batch(HISTORY.repeat(16, 1), HISTORY[:, :1].repeat(16, 1))
    for _ in range(60):
        optimizer.zero_grad()
        loss(batch).backward()
        optimizer.step()
    assert distance(student, teacher) < 0.01


def test_a_teacher_has_nothing_to_learn_from_itself():
    teacher = make(FMRec, num_blocks=1, lambda_std=0.0, num_inference_steps=1, decoder_dims=(4,))
    assert float(Walks(teacher, teacher)(Batch(HISTORY, HISTORY[:, :1])).detach()) < 1e-12


def test_the_loss_is_over_all_steps_of_the_walk(monkeypatch):
    """Against the loop written out: every output of the student against the end of the teacher's walk."""
    teacher, student = make(FMRec, lambda_std=0.0), make(FMRec, 1, lambda_std=0.0, num_inference_steps=2)
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.arange(4))
    loss = Walks(teacher, student)(Batch(HISTORY, HISTORY[:, :1]))
    x = student.process.prior((8,), RequestNoise(torch.arange(4)))
    end = Walks(teacher, student).ends(HISTORY, x, RequestNoise(torch.arange(4)))
    denoise = student.denoiser_for(HISTORY, RequestNoise(torch.arange(4)))
    first = denoise(x, torch.tensor([1.0]))
    second = denoise(x + (first - x) / 2, torch.tensor([0.5]))
    expected = ((first - end).square().mean() + (second - end).square().mean()) / 2
    torch.testing.assert_close(loss, expected)


def test_the_teacher_may_be_a_checkpoint_of_a_run(tmp_path):
    words = ["--trainer.max_epochs=1", "--model.embedding_size=8", "--model.num_inference_steps=4"]
    run = build(["model/dreamrec", "data/synthetic"], words, tmp_path)
    checkpoint = fit(run).checkpoint
    teacher, state = teacher_of(str(checkpoint)), torch.get_rng_state()
    assert all(torch.equal(a, b) for a, b in zip(teacher.parameters(), run.model.parameters(), strict=True))
    assert teacher.num_inference_steps == 4
    teacher_of(str(checkpoint))
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(NotFoundError, match="no checkpoint"):
        teacher_of(str(tmp_path / "checkpoints" / "bost.ckpt"))


def test_a_resumed_student_goes_on_with_the_same_average(tmp_path):
    small = ["--model.embedding_size=8", "--model.num_train_timesteps=20", "--data.batch_size=1024"]
    made = build(["model/dreamrec", "data/synthetic"], [*small, "--model.num_inference_steps=4"], tmp_path / "teacher")
    teacher = save(made.model, tmp_path / "entry", dataset=made.data.dataset)

    def trained(folder, epochs, resume=None):
        given = {"teacher": teacher, "objective": "consistency"}
        words = [f"--trainer.callbacks.Distillation.{name}={value}" for name, value in given.items()]
        words += ["--data.dataset=synthetic", f"--trainer.max_epochs={epochs}", *small]
        fit(build(["dreamrec-student-ml-100k"], words, folder), resume)
        last = read_checkpoint(folder / "checkpoints" / "last.ckpt")
        return last["state_dict"], last["callbacks"]["Distillation"]["average"]

    whole = trained(tmp_path / "whole", 2)
    trained(tmp_path / "parts", 1)
    parts = trained(tmp_path / "parts", 2, tmp_path / "parts" / "checkpoints" / "last.ckpt")
    for one, other in zip(whole, parts, strict=True):
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    layer = "denoiser.output.0.weight"
    assert not torch.equal(whole[0][layer], whole[1][f"module.{layer}"])


def test_a_student_draws_no_dropout_where_a_run_goes_on_inside_an_epoch():
    student = make(DreamRec).train()
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    Distillation("dreamrec.ml-100k").on_train_start(trainer, student)
    assert not student.training


def test_who_cannot_teach(data, entry, tmp_path, unchecked_types):
    with pytest.raises(UsageError, match="SASRec does not generate from noise"):
        teacher_of(entry(SASRec(100, embedding_size=8)))
    with pytest.raises(UsageError, match="DiffRec does not generate from noise"):
        teacher_of(entry(DiffRec(100, dims=(4,))))
    path = entry(make(DreamRec))
    with pytest.raises(UsageError, match=r"cannot teach this model.*feed_in.bias is \(4,\), there \(8,\)"):
        taught(make(DreamRec, embedding_size=4), path, data)
    with pytest.raises(UsageError, match="a PreferDiff for a DreamRec"):
        taught(make(PreferDiff), path, data)
    with pytest.raises(UsageError, match="give it prediction_type sample"):
        taught(make(DreamRec, prediction_type="epsilon"), path, data)
    with pytest.raises(UsageError, match="num_teacher_steps must be"):
        Distillation(path, 0)
    with pytest.raises(NotFoundError, match=r"no objective 'consistent'; .*did you mean 'consistency'"):
        Distillation(path, objective="consistent")
    original = entry(make(FMRec, fidelity="original", num_blocks=1, decoder_dims=(4,)))
    with pytest.raises(UsageError, match="do not follow one trajectory"):
        taught(
            make(FMRec, fidelity="original", num_blocks=1, decoder_dims=(4,)), original, data, objective="consistency"
        )
