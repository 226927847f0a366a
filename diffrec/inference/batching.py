"""Requests of concurrent callers answered together, by one thread that owns the model."""

from __future__ import annotations

import queue
import threading
from collections.abc import Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import torch

from diffrec.diffusion.noise import RequestNoise
from diffrec.errors import DiffrecError
from diffrec.lists import Recommendations
from diffrec.recommender import Recommender


class TooManyWaiting(DiffrecError):
    """The queue is full; ask again later."""


@dataclass(frozen=True)
class Question:
    """What one caller asks. history: item numbers, oldest first; None: as the model is set."""

    history: tuple[int, ...]
    k: int = 10
    seed: int = 0
    include_seen: bool = False
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    answer: Future[Recommendations] = field(default_factory=Future, compare=False, repr=False)

    @property
    def together(self) -> tuple[Hashable, ...]:
        """Questions that agree in this can be asked in one batch; what is left to the model is no number."""
        steps, guidance = self.num_inference_steps, self.guidance_scale
        return self.include_seen, steps is None, steps or 0, guidance is None, guidance or 0.0


class Batcher:
    """A queue and a thread: whatever waits when the model is free is asked at once, at most `max_batch` of it.

    Nothing waits for company, so a single caller is not slowed down; lists do not depend on who else asks, for noise
    belongs to the request. max_waiting: more questions than that are refused with TooManyWaiting.
    """

    def __init__(self, model: Recommender, max_batch: int = 64, max_waiting: int = 256) -> None:
        self.model, self.max_batch = model, max_batch
        self.waiting: queue.Queue[Question | None] = queue.Queue(max_waiting)
        self.batches = self.questions = 0
        self.thread = threading.Thread(target=self._work, name="diffrec-batcher", daemon=True)
        self.thread.start()

    def ask(self, question: Question) -> Future[Recommendations]:
        """The lists, (1, k), when they are there. Raises TooManyWaiting."""
        try:
            self.waiting.put_nowait(question)
        except queue.Full:
            raise TooManyWaiting(f"{self.waiting.maxsize} requests are waiting already; ask again later") from None
        return question.answer

    def close(self) -> None:
        """Answer what is waiting, then end the thread."""
        self.waiting.put(None)
        self.thread.join()

    def _work(self) -> None:
        while (first := self.waiting.get()) is not None:
            batch, last = [first], False
            while len(batch) < self.max_batch and not last:
                try:
                    following = self.waiting.get_nowait()
                except queue.Empty:
                    break
                last = following is None
                batch += [following] if following is not None else []
            batch = [question for question in batch if question.answer.set_running_or_notify_cancel()]
            for _, group in groupby(sorted(batch, key=_sorted_by), key=_sorted_by):
                self._answer(list(group))
            if last:
                return

    def _answer(self, questions: list[Question]) -> None:
        self.batches, self.questions = self.batches + 1, self.questions + len(questions)
        try:
            lists = asked_together(self.model, questions)
        except Exception as error:  # it belongs to those who asked, not to the thread
            for question in questions:
                question.answer.set_exception(error)
            return
        for question, best in zip(questions, lists, strict=True):
            question.answer.set_result(best)


def _sorted_by(question: Question) -> Any:
    return question.together


def asked_together(model: Recommender, questions: list[Question]) -> list[Recommendations]:
    """The answer to each of some questions that agree in `Question.together`."""
    rows = [torch.tensor(question.history, dtype=torch.int64) for question in questions]
    history = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    alone = [RequestNoise.from_history(row[None], q.seed) for row, q in zip(rows, questions, strict=True)]
    first = questions[0]
    best = model.recommend(
        history,
        max(question.k for question in questions),
        exclude_seen=not first.include_seen,
        noise=RequestNoise(torch.cat([noise.state for noise in alone]).to(model.device)),
        num_inference_steps=first.num_inference_steps,
        guidance_scale=first.guidance_scale,
    )
    items, scores = best.items.cpu(), best.scores.cpu()
    return [
        Recommendations(items[row : row + 1, : q.k], scores[row : row + 1, : q.k]) for row, q in enumerate(questions)
    ]
