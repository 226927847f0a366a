"""What the models over semantic IDs share: the codes of the items, and scores of items from scores of tuples."""

from __future__ import annotations

from typing import get_args

import numpy as np
import torch
from torch import nn

from diffrec.data.protocol import refuse_other_part
from diffrec.data.ragged import Ragged
from diffrec.data.splits import Split, TrainingPart
from diffrec.errors import UsageError, check_numbers, check_sizes, choose
from diffrec.nn.artefacts import hash_of_texts
from diffrec.nn.item_codes import ItemCodes
from diffrec.recommender import LrSchedule, Recommender, StepRates
from diffrec.tokenizers.collaborative import collaborative_vectors
from diffrec.tokenizers.collisions import resolved
from diffrec.tokenizers.residual import residual_k_means
from diffrec.tokenizers.tokenize import COLLABORATIVE, read_codes
from diffrec.tokenizers.tokens import Tokens
from diffrec.typing import Int, Tensor

_WIDTH, _ITEMS_A_CODE = 64, 8  # of the vectors that codes are made of where none are given


class CodedRecommender(StepRates, Recommender):
    """A model that reads and writes items as `num_levels` codes, each of `codebook_size`.

    codes: a name of `diffrec data tokenize`, or the path of a safetensors file, read when training starts; None:
    residual k-means of who had the items in training, the last code telling duplicates apart. They are kept with the
    model. lr, warmup_steps, lr_schedule: see `StepRates`.

    num_beams: of models that write codes one after another, 0 for those that score every item; constrained: whether
    beams go on to tuples of items only.
    """

    reads = (("codes", "codes"),)
    num_beams: int = 0
    constrained: bool = True

    def __init__(
        self,
        num_items: int,
        max_history_length: int,
        codes: str | None,
        num_levels: int,
        codebook_size: int,
        lr: float,
        weight_decay: float,
        warmup_steps: int,
        lr_schedule: LrSchedule = "constant",
    ) -> None:
        check_sizes(max_history_length=max_history_length)
        super().__init__(num_items, max_history_length)
        check_sizes(2, num_levels=num_levels, codebook_size=codebook_size)
        check_sizes(0, warmup_steps=warmup_steps)
        check_numbers(low=0.0, lr=lr, weight_decay=weight_decay)
        self._part: TrainingPart | None = None
        self.item_codes = ItemCodes(num_items, num_levels, codebook_size)
        self.lr_schedule = choose("lr_schedule", lr_schedule, get_args(LrSchedule))
        self.codes_from, self.lr, self.weight_decay, self.warmup_steps = codes, lr, weight_decay, warmup_steps

    def token_table(self, dim: int, std: float = 0.02) -> nn.Embedding:
        """A vector for each code of each level, behind that of padding, in the numbers of `ItemCodes.tokens`."""
        table = nn.Embedding(1 + self.item_codes.levels * self.item_codes.size, dim, padding_idx=0)
        nn.init.normal_(table.weight, std=std)
        return table

    def prepare(self, sequences: Ragged) -> None:
        """The codes of the items."""
        codes = self._made(sequences) if self.codes_from is None else self._read(self.codes_from)
        self.item_codes.fill(codes.to(self.device))

    @property
    def cannot_start_from_another(self) -> str:
        return "its codes are made anew of every dataset" if self.codes_from is None else ""

    def prepare_on(self, split: Split) -> None:
        """Raises UsageError for codes that were made of another part of the dataset."""
        self._part = split.part
        super().prepare_on(split)

    def _read(self, name: str) -> Int[Tensor, "items levels"]:
        codes, facts = read_codes(name)
        how = facts.get("how", {})
        if how.get("vectors") == COLLABORATIVE:
            refuse_other_part(f"the tokenizer of {name!r}", TrainingPart(facts["dataset"], how["protocol"]), self._part)
        made_for = facts.get("items_sha256")
        if self.vocabulary is not None and made_for not in (None, hash_of_texts(self.vocabulary.item_ids)):
            raise UsageError(f"the codes {name!r} were made for other items than those of this dataset")
        return torch.from_numpy(codes)

    def _made(self, sequences: Ragged) -> Int[Tensor, "items levels"]:
        levels, most = self.item_codes.levels - 1, self.item_codes.size
        vectors = collaborative_vectors(sequences, self.num_items, _WIDTH)
        unknown = ~vectors.any(axis=1)  # which would all have the same codes; they get directions at random
        drawn = np.random.default_rng(0).normal(size=(int(unknown.sum()), _WIDTH))
        vectors[unknown] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        size = max(1, min(most, self.num_items // _ITEMS_A_CODE))
        tokens: Tokens = residual_k_means(vectors, levels, size)
        codes, sizes = resolved(tokens, size, "extra")
        if sizes[-1] > most:
            told = f"{sizes[-1]} items share {levels} codes of {size}, more than codebook_size = {most} can tell apart"
            raise UsageError(f"{told}; use more levels or a larger codebook_size")
        return torch.from_numpy(codes)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        learned = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(learned, lr=self.lr, weight_decay=self.weight_decay, fused=True)
