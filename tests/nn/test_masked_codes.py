"""What is hidden and what it weighs, against the official code of MaskGR and LLaDA-Rec."""

from __future__ import annotations

import pytest
import torch

from diffrec.nn.code_sets import projected
from diffrec.nn.masked_codes import by_confidence, hidden_loss, hide_by_item, hide_exactly, hide_share


@pytest.fixture(scope="module")
def arrays(golden):
    return golden("masked_sid")


def test_a_share_of_a_sequence(arrays):
    codes, size = arrays["maskgr.codes"], 7
    hidden = hide_share(codes >= 0, arrays["maskgr.fraction"], arrays["maskgr.u"])
    assert torch.equal(hidden.which, arrays["maskgr.masked"] != codes)
    assert hidden.which.nonzero().tolist() == arrays["maskgr.label_positions"].tolist()
    level = torch.arange(codes.shape[1]) % 3
    labels = (codes + level * (size + 1))[hidden.which]
    assert torch.equal(labels, arrays["maskgr.label_ids"])
    logits, weight = arrays["maskgr.hidden"][hidden.which] @ arrays["maskgr.table"].T, hidden.weight[hidden.which]
    loss = hidden_loss(logits, labels, weight, weight.sum())
    torch.testing.assert_close(loss[None], arrays["maskgr.loss"])


def test_a_share_of_each_item(arrays):
    tokens = arrays["llada.his.tokens"]
    by_item = (part.unflatten(1, (4, 3)) for part in (tokens > 0, arrays["llada.his.u"]))
    real, u = by_item
    hidden = hide_by_item(real, arrays["llada.his.count"], u)
    which, weight = hidden.which.flatten(1), hidden.weight.flatten(1)
    assert torch.equal(which, arrays["llada.his.is_masked"] == 1)
    expected = arrays["llada.his.prob"]
    torch.testing.assert_close(weight, torch.where(expected > 0, 1 / expected, 0.0))
    logits = arrays["llada.his.logits"][which] / 0.7
    loss = hidden_loss(logits, tokens[which], weight[which], float(tokens.numel()))
    torch.testing.assert_close(loss[None], arrays["llada.his.loss"])


def test_exactly_so_many_codes_of_the_target(arrays):
    tokens = arrays["llada.tgt.tokens"]
    hidden = hide_exactly(arrays["llada.tgt.count"], arrays["llada.tgt.u"])
    assert torch.equal(hidden.which, arrays["llada.tgt.is_masked"] == 1)
    torch.testing.assert_close(1 / hidden.weight, arrays["llada.tgt.prob"])
    logits = arrays["llada.tgt.logits"][hidden.which] / 0.7
    loss = hidden_loss(logits, tokens[hidden.which], hidden.weight[hidden.which], float(tokens.numel()))
    torch.testing.assert_close(loss[None], arrays["llada.tgt.loss"])


def test_the_most_confident_level_is_read_first(arrays):
    assert torch.equal(by_confidence(arrays["llada.tgt.logits"].softmax(-1)), arrays["llada.unmask.order"])


def test_what_is_no_item_becomes_the_nearest(arrays):
    catalogue, size = arrays["maskgr.catalogue"], 7
    offsets = torch.arange(3) * (size + 1)
    found = projected(arrays["maskgr.generated"] - offsets, catalogue)
    expected = arrays["maskgr.projected"]
    shifted = catalogue + (offsets if int(expected.max()) > size else 0)
    assert torch.equal(shifted[found], expected)
