"""L3AE: EASE that is drawn towards what the texts of the items say of one another.

Moon, Park and Lee, "LLM-Enhanced Linear Autoencoders for Recommendation", CIKM 2025, arXiv 2508.13500; official code
github.com/jaewan7599/L3AE_CIKM2025 (no licence; nothing is taken from it).

Differs from the original in:
- vectors may come from any encoder (`diffrec data embed`), reduced to `vector_size` principal directions; without one
  they are singular vectors of who had the items;
- float32, in the memory of four items x items tables.
"""

from __future__ import annotations

import torch

from diffrec.baselines.ease import count_together, inverse, solved_in_place, without_diagonal
from diffrec.baselines.history import ItemToItem
from diffrec.data.ragged import Ragged
from diffrec.errors import check_numbers, check_sizes
from diffrec.nn.memory import refuse_without_memory
from diffrec.tokenizers.collaborative import item_features


class L3AE(ItemToItem):
    """score = x B, where B minimises |X - X B|^2 + lambda |B|^2 + gamma |B - S|^2 with an empty diagonal.

    X is the binary users x items matrix, x the history as a row of it. S is the same model of the texts: with F the
    vectors of the items as columns, |F - F S|^2 + lambda_F |S|^2 with an empty diagonal is least. In closed form,
    P = (X^T X + (lambda + gamma) I)^-1 and B = gamma P S - P diag(theta) + I with the theta that empties the diagonal.

    item_vectors, vector_size, whiten: F, see `item_features`; regularization: lambda; text_weight: gamma, 0 is EASE;
    text_regularization: lambda_F; decay: as of `EASE`.
    """

    reads = (("item_vectors", "vectors"),)

    def __init__(
        self,
        num_items: int,
        item_vectors: str | None = None,
        vector_size: int = 128,
        whiten: bool = False,
        regularization: float = 100.0,
        text_weight: float = 100.0,
        text_regularization: float = 100.0,
        decay: float = 1.0,
    ) -> None:
        super().__init__(num_items, decay)
        check_sizes(vector_size=vector_size)
        check_numbers(above=0.0, regularization=regularization, text_regularization=text_regularization)
        check_numbers(low=0.0, text_weight=text_weight)
        self.item_vectors, self.vector_size, self.whiten = item_vectors, vector_size, whiten
        self.regularization, self.text_weight, self.text_regularization = (
            regularization,
            text_weight,
            text_regularization,
        )

    def solve(self, sequences: Ragged) -> None:
        tables = (4 if solved_in_place(self.num_items, self.device) else 5) * 4 * self.num_items**2
        refuse_without_memory(f"L3AE on {self.num_items:,} items", tables, "use fewer items, or alpharec")
        vectors = item_features(self.item_vectors, sequences, self.num_items, self.vector_size, self.whiten)
        vectors = vectors.to(self.device)
        texts = without_diagonal(vectors @ vectors.T, self.text_regularization)
        together = torch.from_numpy(count_together(sequences, self.num_items)).to(self.device)
        together.diagonal().add_(self.regularization + self.text_weight)
        inverted = inverse(together)
        table = (inverted @ texts).mul_(self.text_weight)
        del texts
        theta = (1 + table.diagonal()) / inverted.diagonal()
        table -= inverted.mul_(theta)
        self.keep_table(table.fill_diagonal_(0.0))
