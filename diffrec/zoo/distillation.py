"""Few-step students of diffusion models: a network learns in one call where its teacher's walk of many ends.

objective "walk": Luhman and Luhman, "Knowledge Distillation in Iterative Generative Models for Improved Sampling
Speed", 2021, arXiv 2101.02388; here for every step of a short walk, on the states that the student comes through.

objective "consistency": Song et al., "Consistency Models", ICML 2023, arXiv 2303.01469, algorithm 2: wherever on the
way of its teacher, the student says what an average of itself says one step of the teacher further on, so nobody walks
the whole way. Of a flow that is the average velocity from t to 0, (x_t - x_0) / t. DreamRec's one linear layer weighs
x_t alike at all t: it can be right at the few t that a student walks, not at all of them, as is asked for here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
import yaml
from pytorch_lightning import Callback, LightningModule, Trainer

from diffrec.data.batch import Batch
from diffrec.data.protocol import refuse_other_part
from diffrec.data.splits import TrainingPart
from diffrec.diffusion.gaussian import GaussianProcess
from diffrec.diffusion.noise import RequestNoise
from diffrec.diffusion.rectified_flow import RectifiedFlow
from diffrec.diffusion.sampler import sample
from diffrec.errors import UsageError, check_numbers, check_sizes, choose
from diffrec.nn.precision import full_precision
from diffrec.recommender import DiffusionRecommender, Recommender
from diffrec.training.averaging import average_of
from diffrec.training.checkpoint_io import load_weights, read_checkpoint
from diffrec.training.resume import run_of
from diffrec.typing import Float, History, Int, Tensor
from diffrec.zoo.arguments import checked_arguments
from diffrec.zoo.loading import load, model_class

Objective = Literal["walk", "consistency"]


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
    whole: dict[str, Any] = yaml.safe_load(told.read_text(encoding="utf-8"))
    config = whole["model"]
    rows = checkpoint["state_dict"].get("space.table.weight")
    if rows is None:
        raise UsageError(f"{config['class_path']} does not generate embeddings of items, so it has no steps to save")
    constructor, arguments = model_class(config["class_path"], str(told)), config.get("init_args", {})
    with torch.random.fork_rng(devices=[]):
        model = constructor(
            **checked_arguments(constructor.__init__, {"num_items": len(rows) - 1, **arguments}, str(told))
        )
    load_weights(model, checkpoint, path)
    if (protocol := whole["data"].get("protocol")) is not None:
        model.trained_on = TrainingPart(whole["data"]["dataset"], protocol)
    return model


class Distillation(Callback):
    """Makes a training run the distillation of `teacher` into the model of the run, a network of the same class.

    teacher: see `teacher_of`. The student begins with its weights and keeps its table of items. It samples as the run
    is configured (num_inference_steps, guidance_scale); the teacher as it is kept, but for num_teacher_steps (None: its
    own number) and without noise on the way, which a student could only average over.
    objective: what is learned, "walk" or "consistency", see above; for the latter the teacher takes steps of DDIM with
    eta 0, of a flow those of Euler, and target_decay is the share of the average that a step keeps (0: no average). It
    wants a network that tells x_0 at the length of the embeddings. PreferDiff's loss knows only angles: its walk leaves
    the states that are learned from, and the error grows from epoch to epoch.
    """

    def __init__(
        self,
        teacher: str,
        num_teacher_steps: int | None = None,
        objective: Objective = "walk",
        target_decay: float = 0.95,
    ) -> None:
        if num_teacher_steps is not None:
            check_sizes(num_teacher_steps=num_teacher_steps)
        check_numbers(low=0.0, high=1.0, target_decay=target_decay)
        self.name, self.num_teacher_steps = teacher, num_teacher_steps
        self.objective, self.target_decay = choose("objective", objective, get_args(Objective)), target_decay
        self.frozen: list[torch.nn.Parameter] = []
        self.taught: Walks | Consistency | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The weights of the teacher, and what is learned of it."""
        if stage != "fit":
            return
        teacher, student = teacher_of(self.name), cast(Recommender, pl_module)
        data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        refuse_other_part(self.name, teacher.trained_on, data.split.part)
        ids = teacher.vocabulary and teacher.vocabulary.item_ids
        if ids not in (None, data.dataset.vocabulary.item_ids):
            raise UsageError(
                f"{self.name} knows other items than {data.dataset_name}; a student has those of its teacher"
            )
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
        walks = self.objective == "walk"
        self.taught = Walks(teacher, student) if walks else Consistency(teacher, student, self.target_decay)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on, when whoever copies a model has done so: a copy needs no teacher."""
        cast(Recommender, pl_module).taught = self.taught
        pl_module.eval()  # a run that goes on inside an epoch has no start of it

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What is learned has no noise in it, and dropout would add some."""
        pl_module.eval()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """The average follows."""
        if isinstance(self.taught, Consistency):
            self.taught.follow()

    def state_dict(self) -> dict[str, Any]:
        """The average, with which a run goes on."""
        average = self.taught.average if isinstance(self.taught, Consistency) else None
        return {} if average is None else {"average": average.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if isinstance(self.taught, Consistency) and self.taught.average is not None:
            self.taught.average.load_state_dict(state_dict["average"])

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """The student is a model like any other afterwards."""
        for parameter in self.frozen:
            parameter.requires_grad_(True)
        self.frozen, self.taught = [], None
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
        with full_precision(x.device.type):  # the teacher answers as it answers everybody
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


class Consistency:
    """The loss of a batch: how far what the student says at a place of the teacher's way is from what its average says
    one step of the teacher further on.

    average: of the student, see `average_of`; None with a decay of 0, and then the student is asked.
    """

    def __init__(self, teacher: DiffusionRecommender, student: DiffusionRecommender, decay: float) -> None:
        self.teacher, self.student = teacher, student
        self.average = average_of(student, decay).eval().requires_grad_(False) if decay else None
        if not isinstance(teacher.process, GaussianProcess | RectifiedFlow):
            raise UsageError(f"a {type(teacher).__name__} goes another way than a Gaussian process or a rectified flow")
        self.way = teacher.process.trajectory(teacher.num_inference_steps)

    def follow(self) -> None:
        """A step of the average."""
        if self.average is not None:
            self.average.update_parameters(self.student)

    def __call__(self, batch: Batch) -> Float[Tensor, ""]:
        """The mean over requests and coordinates; every request is at a place of its own."""
        noise = RequestNoise(_random_state(batch.history))
        place = torch.randint(self.way.num_steps, (len(batch.history),), device=batch.history.device)
        x = self.states(batch, place, noise)
        denoise = self.student.denoiser_for(batch.history, RequestNoise(noise.state, noise.draws))
        output = denoise(x, self.way.told(place))
        with full_precision(x.device.type):
            target = self.further_on(batch.history, x, place, noise)
        return (output - target).square().mean()

    @torch.no_grad()
    def states(self, batch: Batch, place: Int[Tensor, " batch"], noise: RequestNoise) -> Float[Tensor, "batch dim"]:
        """The prior at the noisiest place, where walks start; elsewhere the last target, corrupted."""
        x0 = self.student.space.encode(_last_target(batch))
        drawn = self.student.process.prior(self.student.space.shape, noise)
        return torch.where(place[:, None] == 0, drawn, self.way.noised(x0, drawn, place))

    @torch.no_grad()
    def further_on(
        self, history: History, x: Float[Tensor, "batch dim"], place: Int[Tensor, " batch"], noise: RequestNoise
    ) -> Float[Tensor, "batch dim"]:
        """What the average says of where the teacher's step from x leads; x_0 itself behind the last step."""
        teacher, asked = self.teacher.to(x.device), self.student
        if self.average is not None:
            asked = cast(DiffusionRecommender, self.average.module.to(x.device))
        output = teacher.denoiser_for(history, RequestNoise(noise.state, noise.draws))(x, self.way.told(place))
        x0, nearer = self.way.step(output, x, place)
        last = place == self.way.num_steps - 1
        denoise = asked.denoiser_for(history, RequestNoise(noise.state, noise.draws))
        return torch.where(last[:, None], x0, denoise(nearer, self.way.told(torch.where(last, place, place + 1))))


def _last_target(batch: Batch) -> Int[Tensor, " batch"]:
    """What followed the history, where there is a target for every slot of it."""
    last = (batch.target > 0).sum(1, keepdim=True).clamp(min=1) - 1
    return batch.target.gather(1, last)[:, 0]


def _random_state(history: History) -> Int[Tensor, " batch"]:
    """Requests that nobody has made, from torch's generator."""
    return torch.randint(1 << 62, (len(history),), device=history.device)
