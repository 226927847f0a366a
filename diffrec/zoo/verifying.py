"""Is an entry what it says? Every byte, the weights against the configuration, the card, the lists."""

from __future__ import annotations

from dataclasses import dataclass

from diffrec.errors import IntegrityError
from diffrec.recommender import Recommender
from diffrec.zoo.config import Config, Measured
from diffrec.zoo.entry import CARD, CONFIG, GOLDEN, METRICS, Entry
from diffrec.zoo.golden import Golden
from diffrec.zoo.headings import missing
from diffrec.zoo.loading import load


@dataclass(frozen=True)
class Verified:
    """An entry that is as it should be; lists: how many were compared, 0 for an entry from before there were any."""

    model: Recommender
    config: Config
    measured: Measured
    lists: int


def verify(entry: Entry) -> Verified:
    """Load an entry and hold it against what it says of itself.

    sha256 and size of every file; names, types, shapes, finiteness and number of the weights (`load`); headings of the
    card; the lists of golden.json, within `golden.TOLERANCE`. Raises IntegrityError with all that is wrong.
    """
    model, where = load(entry.folder, offline=True), entry.folder
    config = Config.parse(entry.read(CONFIG), str(where / CONFIG))
    measured = Measured.parse(entry.read(METRICS), str(where / METRICS))
    card = entry.read(CARD).decode(errors="replace")
    found = [f"the card has nothing below '{heading}'" for heading in missing(card)]
    lists = 0
    if GOLDEN in entry.files:
        golden = Golden.parse(entry.read(GOLDEN), model.vocabulary, model.num_items, str(where / GOLDEN))
        found += golden.differences(model)
        lists = len(golden.histories)
    if found:
        raise IntegrityError(f"{where} is not what it says: {'; '.join(found)}")
    return Verified(model, config, measured, lists)
