"""What one number means: split, history, mask, headline metric. Numbers of two ids are never ranked together."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from diffrec.data.dataset import Dataset
from diffrec.data.ragged import Ragged
from diffrec.data.splits import (
    Cases,
    Split,
    TrainingPart,
    by_user,
    every_prefix,
    fixed_files,
    global_time,
    leave_one_out,
    random_files,
    temporal_ratio,
)
from diffrec.errors import UsageError, choose


@dataclass(frozen=True)
class Protocol:
    """One way of measuring, named by `id`.

    split: dataset -> Split; masked: whether seen items leave the candidates; headline: the metric of
    selection and of the leaderboard; cutoffs: the lengths of list that are reported; selected_by: the id of the
    protocol that chooses settings and the number of epochs, where this one trains on its validation items too;
    validated_as: the id of the protocol with the same training and validation parts, whose settings serve here.
    """

    id: str
    summary: str
    split: Callable[[Dataset], Split]
    masked: bool
    headline: str
    cutoffs: tuple[int, ...]
    selected_by: str | None = None
    validated_as: str | None = None

    @property
    def searched_by(self) -> str:
        """The id of the protocol under which settings are searched for."""
        return self.selected_by or self.validated_as or self.id

    def apply(self, dataset: Dataset) -> Split:
        """Split `dataset`, with `seen` emptied where this protocol masks nothing.

        Raises UsageError where masking would take a true target out of the candidates.
        """
        split = replace(_with_times(self.split(dataset), self.split, dataset), part=TrainingPart(dataset.name, self.id))
        if not self.masked:
            return replace(split, valid=_unmasked(split.valid), test=_unmasked(split.test))
        for part, cases in (("validation", split.valid), ("test", split.test)):
            if hidden := int(cases.seen.contains(cases.target).sum()):
                raise UsageError(
                    f"{dataset.name} has {hidden} {part} targets among the seen items, which {self.id} masks; choose "
                    f"a protocol without mask, as in 'diffrec fit --data.protocol={self.without_mask}'"
                )
        return split

    @property
    def without_mask(self) -> str:
        """The id of the protocol of the same split that masks nothing, else of leave-one-out."""
        same = [other.id for other in PROTOCOLS.values() if other.split is self.split and not other.masked]
        return same[0] if same else "loo-full-unmasked@1"


def _with_times(split: Split, divide: Callable[[Dataset], Split], dataset: Dataset) -> Split:
    """The split with times: those of all parts, divided as their items are, for a split only moves items about."""
    timed = {name: (part, part.times) for name, part in dataset.parts.items()}
    parts = {name: replace(part, items=times) for name, (part, times) in timed.items() if times is not None}
    if len(parts) < len(timed):
        return split
    of = divide(replace(dataset, parts=parts))
    valid, test = replace(split.valid, times=of.valid.history), replace(split.test, times=of.test.history)
    dated = all(part.timestamps is not None for part, _ in timed.values())
    return replace(split, valid=valid, test=test, times=of.train, dated=dated)


def _unmasked(cases: Cases) -> Cases:
    return replace(cases, seen=Ragged.empty(len(cases)))


_SEQUENTIAL = (5, 10, 20, 50)
_COLLABORATIVE = (10, 20, 50, 100)

PROTOCOLS: Mapping[str, Protocol] = {
    protocol.id: protocol
    for protocol in (
        Protocol("loo-full-masked@1", "last item of each user, all items, seen items masked",
                 leave_one_out, True, "ndcg@10", _SEQUENTIAL),
        Protocol("loo-full-unmasked@1", "last item of each user, all items, nothing masked",
                 leave_one_out, False, "ndcg@10", _SEQUENTIAL),
        Protocol("user-split-811@1", "last item of users kept out of training, nothing masked",
                 by_user, False, "ndcg@10", _SEQUENTIAL),
        Protocol("user-split-811-masked@1", "last item of users kept out of training, seen items masked",
                 by_user, True, "ndcg@10", _SEQUENTIAL),
        Protocol("prefix-811@1", "every published prefix of held-out sequences, the empty one too, nothing masked",
                 every_prefix, False, "recall@20", _SEQUENTIAL),  # one target each, so recall is the hit rate
        Protocol("temporal-811@1", "last tenth of each user's items, the tenth before it for validation; seen items "
                 "masked, all items ranked", temporal_ratio, True, "recall@20", _COLLABORATIVE),
        Protocol("diffrec-temporal@1", "published files; history = train, train and validation masked at test",
                 fixed_files, True, "recall@20", _COLLABORATIVE),
        Protocol("diffrec-temporal-wval@1", "published files; history = train and validation, both masked at test",
                 partial(fixed_files, history_with_valid=True), True, "recall@20", _COLLABORATIVE,
                 validated_as="diffrec-temporal@1"),
        Protocol("cf-lightgcn@1", "published random train and test files, history = all of train, masked; validation "
                 "= published hold-out of train, or a tenth of it drawn by seed 0", random_files, True, "recall@20",
                 _COLLABORATIVE),
        Protocol("cf-lightgcn-refit@1", "as cf-lightgcn@1, which chooses settings and epochs; then trained on all "
                 "of the published train", partial(random_files, train_on_valid=True), True, "recall@20",
                 _COLLABORATIVE, selected_by="cf-lightgcn@1"),
        Protocol("gts-last@1", "last item of each user in the last tenth of all interactions by time, the tenth "
                 "before it for validation; seen items masked, all items known by then ranked",
                 global_time, True, "ndcg@10", _SEQUENTIAL),
    )
}  # fmt: skip


def refuse_other_part(what: str, learnt_from: TrainingPart | None, asked: TrainingPart | None) -> None:
    """UsageError where `what` was learnt from one part of a dataset and is now to be asked, or taught, under a protocol
    that trains on another: what is asked there may have been learnt."""
    if learnt_from is None or asked is None or learnt_from.dataset != asked.dataset:
        return
    one, other = get_protocol(learnt_from.protocol), get_protocol(asked.protocol)
    if one.split is not other.split and (one.validated_as or one.id) != (other.validated_as or other.id):
        raise UsageError(
            f"{what} was trained on {one.id} of {asked.dataset}; what {other.id} asks may be among that. Use one that "
            f"was trained under {other.id}"
        )


def get_protocol(protocol_id: str) -> Protocol:
    """The protocol of that id; NotFoundError names the ids there are."""
    return PROTOCOLS[choose("protocol", protocol_id, PROTOCOLS)]
