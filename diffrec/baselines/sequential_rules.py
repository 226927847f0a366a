"""Sequential rules with decay (SR-decay): counted "i, soon after it j"."""

from __future__ import annotations

from typing import Literal, get_args

import scipy.sparse as sp

from diffrec.baselines.history import ItemToItem, event_weights
from diffrec.data.ragged import Ragged
from diffrec.data.rules import bound_of_rules, count_rules
from diffrec.errors import check_sizes, choose
from diffrec.typing import Float, History, Tensor

Normalisation = Literal["raw", "p", "cos"]


class SequentialRules(ItemToItem):
    """score_j = sum_k d^(L-1-k) S[h_k, j] with S_ij = sum over training pairs a < b <= a + W of 1 / (b - a).

    A pair is s_a = i, s_b = j in one sequence; every event of the history h_0..h_{L-1} counts, repeats too.

    window: W, in events; decay: d in (0, 1]; normalisation: `raw` S_ij, `p` S_ij / (1 + row_i) or
    `cos` S_ij / sqrt((1 + row_i)(1 + col_j)), with the row and column sums of S.
    Source: Ludewig & Jannach, "Evaluation of session-based recommendation algorithms" (2018), rules SR;
    there only the last item asks.
    """

    def __init__(
        self, num_items: int, window: int = 10, normalisation: Normalisation = "raw", decay: float = 0.5
    ) -> None:
        super().__init__(num_items, decay)
        check_sizes(window=window)
        choose("normalisation", normalisation, get_args(Normalisation))
        self.window = window
        self.normalisation: Normalisation = normalisation

    def solve(self, sequences: Ragged) -> None:
        bounds = bound_of_rules(sequences, self.num_items, self.window)
        self.refuse_without_memory_for(*bounds, "use fewer items" if self.window == 1 else "use a smaller window")
        rules = count_rules(sequences, self.num_items, self.window)
        self.keep_sparse(normalised(rules, self.normalisation))

    def weights(self, history: History) -> Float[Tensor, "batch length"]:
        return event_weights(history, self.decay)


def normalised(rules: sp.csr_array, normalisation: Normalisation) -> sp.csr_array:
    """S, or S divided by its row sums or by the geometric mean of row and column sums, each plus one."""
    from_item, to_item = 1 + rules.sum(axis=1), 1 + rules.sum(axis=0)
    if normalisation == "p":
        return sp.csr_array(sp.diags_array(1 / from_item) @ rules)
    if normalisation == "cos":
        return sp.csr_array(sp.diags_array(from_item**-0.5) @ rules @ sp.diags_array(to_item**-0.5))
    return rules
