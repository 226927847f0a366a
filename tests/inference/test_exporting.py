"""Graphs give the model's scores, whole sampler included; what cannot be exported says so and writes nothing."""

from __future__ import annotations

import importlib.util

import pytest
import torch

from diffrec.cli.main import main
from diffrec.data.synthetic import synthetic
from diffrec.diffusion.linear_steps import LinearSteps
from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import DiffrecError, UsageError
from diffrec.inference.exporting import export
from diffrec.models import DiffRec, DreamRec, LightGCN, MaskGR, SASRec
from diffrec.zoo import save

ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))
MODELS = {
    "a network": lambda: SASRec(30, embedding_size=8, num_blocks=1, max_history_length=6),
    "a sampler with noise and guidance": lambda: DreamRec(
        30, embedding_size=8, max_history_length=6, num_train_timesteps=20, num_inference_steps=3
    ),
    "a sampler over the catalogue": lambda: DiffRec(30, dims=(8,), num_train_timesteps=3, noise_scale=0.1),
}


@pytest.fixture(params=MODELS)
def model(request):
    torch.manual_seed(0)
    return MODELS[request.param]().eval()


def test_a_graph_that_is_read_back_scores_as_the_model_does(model, tmp_path):
    done = export(model, tmp_path / "deep" / "model.pt2", batch=3, window=5)
    assert done.parity.difference < 1e-5
    assert done.parity.equal == 1
    graph = torch.export.load(done.path).module()
    history = torch.tensor([[3, 9, 4, 0, 0], [30, 0, 0, 0, 0], [1, 2, 3, 4, 5]])
    noise = RequestNoise.from_history(history, 7)
    got = graph(history, noise.state)
    torch.testing.assert_close(got, model.score(history, noise=noise).detach(), rtol=1e-4, atol=1e-4)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert "reverse_steps" not in vars(getattr(model, "process", model))


@pytest.mark.parametrize(
    "name",
    ["DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler", "LCMScheduler",
     "UniPCMultistepScheduler"],
)  # fmt: skip
def test_the_steps_of_a_scheduler_are_numbers(name):
    torch.manual_seed(0)
    model = DreamRec(30, embedding_size=8, num_train_timesteps=20).eval()
    model.set_sampling(scheduler=name, num_inference_steps=6)
    history, keys = torch.randint(1, 31, (4, 6)), torch.arange(4)
    expected = model.score(history, noise=RequestNoise.from_keys(keys))
    made = model.process.reverse_steps
    steps = LinearSteps.of(lambda: made(6), noisy=True)
    model.process.__dict__["reverse_steps"] = lambda number=None: steps
    for _ in range(2):  # one walk after the other
        got = model.score(history, noise=RequestNoise.from_keys(keys))
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_steps_that_are_no_such_numbers_are_refused():
    model = DreamRec(30, num_train_timesteps=20)
    made = model.process.reverse_steps

    class Squared:
        def __init__(self):
            self.steps = made(3)
            self.timesteps = self.steps.timesteps

        def enter(self, x):
            return x

        def model_input(self, state, place):
            return state

        def step(self, output, state, place, draw):
            return state.square() + 3 * (place == 1)

    with pytest.raises(DiffrecError, match="step 1 of 3 is not linear"):
        LinearSteps.of(Squared, noisy=False)


def test_a_model_that_cannot_be_followed_writes_nothing(tmp_path):
    data = synthetic()
    model = LightGCN(data.num_items, embedding_size=4)
    model.prepare(data.parts["all"].items)
    with pytest.raises(UsageError, match=r"LightGCN cannot be exported, for a graph has one way .* \(torch: "):
        export(model, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_beam_search_cannot_be_exported_and_is_named(tmp_path):
    data = synthetic()
    sizes = {"embedding_size": 8, "num_blocks": 1, "num_heads": 1, "feed_size": 8, "num_beams": 4}
    model = MaskGR(data.num_items, num_levels=3, codebook_size=32, **sizes).eval()
    model.prepare(data.parts["all"].items)
    with pytest.raises(UsageError) as refused:
        export(model, tmp_path / "model.pt2")
    told = "its lists come from a beam search over semantic IDs, and a graph has one way of scoring"
    assert str(refused.value) == f"MaskGR cannot be exported, for {told}, whatever the values that it meets"
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_is_not_near_is_not_written(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = MODELS["a network"]().eval()
    monkeypatch.setattr("diffrec.inference.exporting._reader", lambda path, form: lambda h, s: torch.ones(len(h), 30))
    with pytest.raises(DiffrecError, match="of the largest score away from the model"):
        export(model, tmp_path / "model.pt2")
    assert list(tmp_path.iterdir()) == []


def test_the_command_prints_the_parity(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    entry = save(MODELS["a sampler with noise and guidance"](), tmp_path / "zoo" / "dreamrec.numbers")
    assert main(["export", str(entry), "--batch", "2", "--window", "9", "--num-inference-steps", "2"]) == 0
    told = capsys.readouterr()
    assert told.err == "a window of 6, not 9: the model reads no more items\n"
    first, second = told.out.splitlines()
    assert first.startswith("dreamrec.numbers.pt2: ")
    assert first.endswith("(history (2, 6), state (2,)) -> scores (2, 30)")
    assert second.startswith("parity with the model on 8 histories: scores ")
    assert second.endswith("100.0 % of places equal")
    assert (tmp_path / "dreamrec.numbers.pt2").is_file()


def test_the_format_is_that_of_the_ending(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    entry = save(MODELS["a network"]().eval(), tmp_path / "zoo" / "some.numbers")
    monkeypatch.setattr("diffrec.inference.exporting._is_there", lambda name: name != "onnxscript")
    for words in (["--output", "graph.onnx"], ["--output", "graph.ONNX"], ["--output", "graph", "--format", "onnx"]):
        assert main(["export", str(entry), *words]) == 2
        assert "ONNX needs onnxscript" in capsys.readouterr().err
    for name, form in (("graph.onnx", "pt2"), ("graph.pt2", "onnx")):
        assert main(["export", str(entry), "--output", name, "--format", form]) == 2
        told = f"--output {name} ends as {name.removeprefix('graph.')} does, and --format says {form}"
        assert told in capsys.readouterr().err
    assert main(["export", str(entry), "--output", "graph.v2"]) == 0
    assert (tmp_path / "graph.v2").is_file()


def test_the_extra_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("diffrec.inference.exporting._is_there", lambda name: name != "onnxscript")
    with pytest.raises(UsageError, match=r"needs onnxscript: pip install 'diffrec\[onnx\]'"):
        export(MODELS["a network"](), tmp_path / "model.onnx", form="onnx")


@pytest.mark.skipif(not ONNX, reason="needs the extra onnx")
def test_onnx_scores_as_the_model_does(tmp_path):
    """The model that needs most of a graph: attention, noise, guidance, steps. Each export takes seconds."""
    torch.manual_seed(0)
    model = MODELS["a sampler with noise and guidance"]().eval()
    done = export(model, tmp_path / "model.onnx", form="onnx", batch=2)
    assert done.parity.difference < 1e-5
    assert done.parity.equal == 1
