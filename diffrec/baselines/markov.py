"""First-order Markov chain: what followed the last item."""

from __future__ import annotations

from diffrec.baselines.sequential_rules import Normalisation, SequentialRules


class Markov(SequentialRules):
    """score_j = S[last, j], S_ij = how often j directly follows i in the training sequences.

    Earlier items only break ties: each counts 1e-4 of the one after it. These are sequential rules of window 1.

    normalisation: as in `SequentialRules`; `p` is the transition probability, shrunk for rare items.
    Source: the Markov chain of Rendle et al., "Factorizing personalized Markov chains" (2010), unfactorised;
    MC in Ludewig & Jannach (2018).
    """

    def __init__(self, num_items: int, normalisation: Normalisation = "p") -> None:
        super().__init__(num_items, window=1, normalisation=normalisation, decay=1e-4)
