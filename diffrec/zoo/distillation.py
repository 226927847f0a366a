"""Few-step students of diffusion models: a network learns in one call where its teacher's walk of many ends.

Luhman and Luhman, "Knowledge Distillation in Iterative Generative Models for Improved Sampling Speed", 2021, arXiv
2101.02388; here for every step of a short walk, on the states that the student itself comes through.

Consistency distillation (Song et al., "Consistency Models", ICML 2023) asks for that at every t at once. DreamRec's one
linear layer weighs x_t alike at all t, so it can be right at the few that are walked, not at all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
import yaml
from pytorch_lightning import Callback, LightningModule, Trainer

from diffrec.data.batch import Batch
from diffrec.diffusion.noise import RequestNoise
from diffrec.diffusion.sampler import sample
from diffrec.errors import UsageError, check_sizes
from diffrec.recommender import DiffusionRecommender, Recommender
from diffrec.training.checkpoint_io import load_weights, read_checkpoint
from diffrec.training.resume import run_of
from diffrec.typing import Float, History, Int, Tensor
from diffrec.zoo.arguments import checked_arguments
from diffrec.zoo.loading import load, model_class


def teacher_of(name: str) -> DiffusionRecommender:
    """The model of a checkpoint of a run where `name` ends in .ckpt, else that of a zoo entry by name or folder.

    Raises UsageError for a model that takes no steps, and what `zoo.load` and `read_checkpoint` raise.
    """
    model = _of_checkpoint(Path(name)) if name.endswith(".ckpt") else load(name)
    if not isinstance(model, DiffusionRecommender) or model.start != "noise":
        raise UsageError(f"{type(model).__name__} does not generate from noise, so it has no steps to save")
    return model.eval().requires_grad_(False)


def _of_checkpoint(path: Path) -> Recommender:
    checkpoint, told = read_checkpoint(path), run_of(path) / "config.yaml"
    if not told.is_file():
        raise UsageError(f"there is no {told}, the configuration of {path}")
    config: dict[str, Any] = yaml.safe_load(told.read_text(encoding="utf-8"))["model"]
    rows = checkpoint["state_dict"].get("space.table.weight")
    if rows is None:
        raise UsageError(f"{config['class_path']} does not generate embeddings of items, so it has no steps to save")
    constructor, arguments = model_class(config["class_path"], str(told)), config.get("init_args", {})
    with torch.random.fork_rng(devices=[]):
        model = constructor(
            **checked_arguments(constructor.__init__, {"num_items": len(rows) - 1, **arguments}, str(told))
        )
    load_weights(model, checkpoint, path)
    return model


class Distillation(Callback):
    """Makes a training run the distillation of `teacher` into the model of the run, a network of the same class.

    teacher: see `teacher_of`. The student begins with its weights and keeps its table of items. It samples as the run
    is configured (num_inference_steps, guidance_scale); the teacher as it is kept, but for num_teacher_steps (None: its
    own number) and without noise on the way, which a student could only average over.
    """

    def __init__(self, teacher: str, num_teacher_steps: int | None = None) -> None:
        if num_teacher_steps is not None:
            check_sizes(num_teacher_steps=num_teacher_steps)
        self.name, self.num_teacher_steps = teacher, num_teacher_steps
        self.frozen: list[torch.nn.Parameter] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The weights of the teacher, and its walk as what is learned."""
        if stage != "fit":
            return
        teacher, student = teacher_of(self.name), cast(Recommender, pl_module)
        told, asked = _shapes(teacher), _shapes(student)
        if type(student) is not type(teacher) or told != asked or not isinstance(student, DiffusionRecommender):
            other = next((name for name in sorted({*told, *asked}) if told.get(name) != asked.get(name)), None)
            why = f"{other} is {asked.get(other)}, there {told.get(other)}" if other else "they are different classes"
            kinds = f"a {type(student).__name__} for a {type(teacher).__name__}"
            raise UsageError(f"{self.name} cannot teach this model, {kinds}: {why}")
        if getattr(student.process, "prediction_type", "sample") != "sample":
            raise UsageError("a student tells where the walk of its teacher ends; give it prediction_type sample")
        student.load_state_dict(teacher.state_dict())
        teacher.num_inference_steps = self.num_teacher_steps or teacher.num_inference_steps
        self.frozen = [p for p in cast(torch.nn.Module, student.space).parameters() if p.requires_grad]
        for parameter in self.frozen:
            parameter.requires_grad_(False)
        student.taught = Walks(teacher, student)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What is learned has no noise in it, and dropout would add some."""
        pl_module.eval()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The student is a model like any other afterwards."""
        for parameter in self.frozen:
            parameter.requires_grad_(True)
        self.frozen = []
        cast(Recommender, pl_module).taught = None


def _shapes(model: Recommender) -> Mapping[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


class Walks:
    """The loss of a batch: how far every output of the student's walk is from where the teacher's walk ends."""

    def __init__(self, teacher: DiffusionRecommender, student: DiffusionRecommender) -> None:
        self.teacher, self.student = teacher, student

    def __call__(self, batch: Batch) -> Float[Tensor, ""]:
        """The mean over requests, steps and coordinates; every request starts from noise of its own."""
        noise = RequestNoise(_random_state(batch.history))
        x, student = self.student.process.prior(self.student.space.shape, noise), self.student
        end = self.ends(batch.history, x, RequestNoise(noise.state, noise.draws))
        denoise = student.denoiser_for(batch.history, RequestNoise(noise.state, noise.draws))
        steps, errors = student.process.reverse_steps(student.num_inference_steps), []
        state = steps.enter(x)
        for place, t in enumerate(steps.timesteps):
            output = denoise(steps.model_input(state, place), torch.tensor([t], device=x.device))
            errors.append((output - end).square().mean())
            state = steps.step(output.detach(), state, place, None)
        return torch.stack(errors).mean()

    @torch.no_grad()
    def ends(self, history: History, x: Float[Tensor, "batch dim"], noise: RequestNoise) -> Float[Tensor, "batch dim"]:
        """x_0 of the teacher from x."""
        teacher = self.teacher.to(x.device)
        denoise = teacher.denoiser_for(history, noise)
        return sample(denoise, teacher.process, x, num_inference_steps=teacher.num_inference_steps)


def _random_state(history: History) -> Int[Tensor, " batch"]:
    """Requests that nobody has made, from torch's generator."""
    return torch.randint(1 << 62, (len(history),), device=history.device)
