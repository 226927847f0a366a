"""MaskGR: its ways of reading hidden codes beside plain searches, and its losses beside a loop."""

from __future__ import annotations

import itertools

import pytest
import torch

from diffrec.data.batch import Batch
from diffrec.data.ragged import Ragged
from diffrec.errors import UsageError
from diffrec.models import MaskGR
from diffrec.models.maskgr import with_target
from diffrec.nn.artefacts import write_artefact
from diffrec.nn.masked_codes import hide_share

N, LEVELS, SIZE = 25, 3, 4
CODES = torch.randint(0, SIZE, (N, LEVELS), generator=torch.Generator().manual_seed(3))
HISTORY = torch.tensor([[4, 9, 2], [7, 0, 0], [0, 0, 0], [25, 1, 0]])
TUPLES = sorted({tuple(row) for row in CODES.tolist()})


def model(**arguments) -> MaskGR:
    torch.manual_seed(0)
    small = {"embedding_size": 12, "num_blocks": 1, "num_heads": 2, "feed_size": 16, "max_history_length": 5}
    made = MaskGR(N, num_levels=LEVELS, codebook_size=SIZE, **{**small, **arguments})
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    made.item_codes.fill(CODES)
    return made.eval()


def read(made: MaskGR, row: int, known: tuple[int, ...]) -> torch.Tensor:
    """(levels, size) what the network makes of one request and one beam."""
    return made.log_probabilities(HISTORY[row : row + 1], torch.tensor([[known]]))[0, 0]


def put(known: tuple[int, ...], level: int, code: int) -> tuple[int, ...]:
    return (*known[:level], code, *known[level + 1 :])


def items_with(known: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [t for t in TUPLES if all(k in (-1, c) for k, c in zip(known, t, strict=True))]


def searched(made: MaskGR, row: int, steps: int, constrained: bool = True) -> dict[tuple[int, ...], float]:
    """The same search with lists, one beam at a time."""
    beams: dict[tuple[int, ...], tuple[float, torch.Tensor | None]] = {(-1,) * LEVELS: (0.0, None)}
    for turn in range(LEVELS):
        grown: dict[tuple[int, ...], tuple[float, torch.Tensor | None]] = {}
        for known, (score, seen) in beams.items():
            log_p = read(made, row, known) if (turn * steps) % LEVELS < steps else seen
            hidden = [level for level in range(LEVELS) if known[level] < 0]
            if made.order == "left-to-right":
                hidden = hidden[:1]
            elif made.order == "confidence":
                hidden = [max(hidden, key=lambda level: log_p[level].max().item())]
            for level, code in itertools.product(hidden, range(SIZE)):
                longer = put(known, level, code)
                if constrained and not items_with(longer):
                    continue
                total = score + log_p[level, code].item()
                if longer not in grown or grown[longer][0] < total:
                    grown[longer] = (total, log_p)
        beams = dict(sorted(grown.items(), key=lambda beam: -beam[1][0])[: made.num_beams])
    return {known: score for known, (score, _) in beams.items()}


@torch.no_grad()
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("order", ["confidence", "joint", "left-to-right"])
@pytest.mark.parametrize("reread", [False, True])
def test_beams_beside_lists(order, steps, reread):
    made = model(order=order, num_beams=5, num_inference_steps=steps, reread=reread)
    codes, scores = made.beams(HISTORY)
    for row in range(len(HISTORY)):
        expected = searched(made, row, steps)
        got = {tuple(c): s for c, s in zip(codes[row].tolist(), scores[row].tolist(), strict=True) if s > -1e9}
        assert got.keys() == expected.keys()
        assert all(abs(got[known] - expected[known]) < 1e-4 for known in got)
        assert set(got) <= set(TUPLES)
    assert made.denoiser_calls == steps


@torch.no_grad()
def test_scores_are_those_of_the_beams_and_the_rest_comes_last():
    made = model(num_beams=5)
    scores = made.score(HISTORY)
    for row in range(len(HISTORY)):
        found = searched(made, row, LEVELS)
        for item, known in enumerate(map(tuple, CODES.tolist())):
            expected = found.get(known, min(found.values()) - 1)
            assert scores[row, item].item() == pytest.approx(expected, abs=1e-4)


@torch.no_grad()
def test_one_pass_scores_all_items_exactly():
    made = model(num_inference_steps=1, exact=True)
    scores = made.score(HISTORY)
    for row in range(len(HISTORY)):
        log_p = read(made, row, (-1,) * LEVELS)
        expected = [sum(log_p[level, code] for level, code in enumerate(item)) for item in CODES.tolist()]
        torch.testing.assert_close(scores[row], torch.stack(expected), rtol=1e-4, atol=1e-5)
    wide = model(num_inference_steps=1, num_beams=64, order="left-to-right").score(HISTORY)
    torch.testing.assert_close(wide, scores, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_without_constraint_invalid_beams_become_the_nearest_item():
    made = model(constrained=False, num_beams=12)
    codes, scores = made.beams(HISTORY)
    valid = made.sets.are_items(codes)
    assert 0 < valid.float().mean() < 1, "some are items and some are not"
    for row in range(len(HISTORY)):
        expected = searched(made, row, LEVELS, constrained=False)
        assert expected.keys() == set(map(tuple, codes[row].tolist()))
        best: dict[tuple[int, ...], float] = {}
        for known, score in zip(codes[row].tolist(), scores[row].tolist(), strict=True):
            nearest = max(TUPLES, key=lambda t: sum(a == b for a, b in zip(t, known, strict=True)))
            best[nearest] = max(score, best.get(nearest, score))
        for item, known in enumerate(map(tuple, CODES.tolist())):
            if known in best:
                assert made.score(HISTORY)[row, item].item() == pytest.approx(best[known], abs=1e-4)


@torch.no_grad()
def test_beams_are_counted_where_they_end():
    """Beside loops over beams; a model whose beams are constrained writes nothing invalid."""
    made = model(constrained=False, num_beams=12)
    codes, _ = made.beams(HISTORY)
    found, invalid, several = 0, 0, 0
    for row in codes.tolist():
        ends = {max(TUPLES, key=lambda t: sum(map(int.__eq__, t, known))) for known in map(tuple, row)}
        found, invalid = found + len(ends), invalid + sum(tuple(known) not in TUPLES for known in row)
        several += sum(CODES.tolist().count(list(end)) > 1 for end in ends)
    with made.item_codes.counting() as counts:
        made.score(HISTORY)
    made.score(HISTORY)  # outside, nothing is counted
    assert (counts.requests, counts.found, counts.invalid) == (len(HISTORY), found, invalid)
    assert counts.repeated == codes[..., 0].numel() - found > 0
    assert counts.shared == several > 0
    made = model(num_beams=64)
    with made.item_codes.counting() as counts:
        made.score(HISTORY)
    assert (counts.found, counts.invalid, counts.repeated) == (len(HISTORY) * len(TUPLES), 0, 0)
    exact = model(num_inference_steps=1, exact=True)
    with exact.item_codes.counting() as none:
        exact.score(HISTORY)
    assert none.requests == 0


@torch.no_grad()
def test_the_loss_of_a_share_beside_a_loop():
    made, batch = model(), Batch(HISTORY, HISTORY[:, :0])
    tokens = made.item_codes.tokens(HISTORY)
    torch.manual_seed(5)
    got = made.training_loss(batch)
    torch.manual_seed(5)
    hidden = hide_share(tokens > 0, torch.rand(4), torch.rand(tokens.shape))
    states = made.states(tokens, hidden.which)
    total, weights = 0.0, 0.0
    for row, slot, level in hidden.which.nonzero().tolist():
        log_p = made.of_levels(states[row, slot])[level].log_softmax(0)
        weight = hidden.weight[row, slot, level].item()
        total -= weight * log_p[CODES[HISTORY[row, slot] - 1, level]].item()
        weights += weight
    assert got.item() == pytest.approx(total / weights, rel=1e-4)


@torch.no_grad()
def test_the_original_shares_its_softmax_with_all_tokens():
    fixed, original = model(), model(fidelity="original")
    one = (-1,) * LEVELS
    torch.testing.assert_close(read(fixed, 0, one).exp().sum(1), torch.ones(LEVELS))
    shares = read(original, 0, one).exp().sum(1)
    assert (shares < 0.9).all()
    alike = read(original, 0, one) - read(original, 0, one).logsumexp(1, keepdim=True)
    torch.testing.assert_close(alike, read(fixed, 0, one), rtol=1e-4, atol=1e-4)


def test_every_way_of_hiding_trains():
    for masking, fidelity in itertools.product(("share", "counts", "guided"), ("fixed", "original")):
        made = model(masking=masking, fidelity=fidelity)
        loss = made.training_loss(Batch(HISTORY[[0, 1, 3]], HISTORY[[0, 1, 3], :0]))
        loss.backward()
        assert torch.isfinite(loss)
        assert made.tokens.weight.grad.abs().sum() > 0


def test_guided_hides_what_the_model_is_least_sure_of(monkeypatch):
    made, found = model(masking="guided", dropout=0.5), []

    def loss(items, hidden, total):
        found.append((hidden, total))
        return torch.zeros(())

    monkeypatch.setattr(made, "_loss", loss)
    made.train()
    batch = Batch(HISTORY[[0, 1, 3]], HISTORY[[0, 1, 3], :0])
    torch.manual_seed(0)
    for _ in range(100):
        made.training_loss(batch)
    assert made.training
    made.eval()
    last = (batch.history > 0).sum(1) - 1
    for row, place in enumerate(last):
        before, nothing = batch.history[row : row + 1, :place], torch.full((1, 1, LEVELS), -1)
        sure = made.log_probabilities(before, nothing)[0, 0].amax(-1)
        views = [sure.argsort(descending=True).argsort() >= LEVELS - count for count in range(1, LEVELS + 1)]
        counts = torch.zeros(LEVELS)
        for hidden, total in found:
            assert total == hidden.which.sum()
            view = hidden.which[row, place]
            assert hidden.which[row].sum() == view.sum()
            counts[[torch.equal(view, other) for other in views].index(True)] += 1
        assert (counts > 20).all()


def test_temperature_and_label_smoothing():
    made, batch = model(temperature=0.5, label_smoothing=0.1), Batch(HISTORY[[0, 1, 3]], HISTORY[[0, 1, 3], :0])
    plain = model()
    plain.load_state_dict(made.state_dict())
    states = torch.randn(2, LEVELS, made.tokens.embedding_dim)
    torch.testing.assert_close(made.of_levels(states), 2 * plain.of_levels(states))
    torch.testing.assert_close(made.logits(states), 2 * plain.logits(states))
    losses = []
    for temperature, smoothing in ((0.5, 0.1), (0.5, 0.0), (1.0, 0.1)):
        made.temperature, made.label_smoothing = temperature, smoothing
        torch.manual_seed(0)
        losses.append(made.training_loss(batch).item())
    assert len({round(loss, 4) for loss in losses}) == 3
    with pytest.raises(UsageError, match="temperature must be a finite number above 0, got 0"):
        model(temperature=0.0)
    with pytest.raises(UsageError, match="label_smoothing must be a finite number from 0 to below 1, got 1"):
        model(label_smoothing=1.0)


def test_a_target_is_put_behind_its_history():
    batch = Batch(torch.tensor([[4, 9], [7, 0]]), torch.tensor([[1], [2]]))
    assert with_target(batch).tolist() == [[4, 9, 1], [7, 2, 0]]
    assert with_target(Batch(HISTORY, HISTORY[:, :0])) is HISTORY


@torch.no_grad()
def test_a_history_read_once_is_exact_while_all_is_hidden():
    once, anew = model(num_blocks=2), model(num_blocks=2, reread=True)  # the first block reads no states
    for row in range(len(HISTORY)):
        hidden = (-1,) * LEVELS
        torch.testing.assert_close(read(once, row, hidden), read(anew, row, hidden), rtol=1e-4, atol=1e-5)
    known = (-1, 2, -1)
    assert not torch.allclose(read(once, 0, known), read(anew, 0, known), atol=1e-3)
    empty = read(once, 2, known)  # with no history there is nothing that could have changed
    torch.testing.assert_close(empty, read(anew, 2, known), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_large_batches_are_read_in_parts(monkeypatch):
    made = model(num_beams=5)
    whole = made.score(HISTORY)
    monkeypatch.setattr("diffrec.models.maskgr._TOKENS_AT_ONCE", 1)
    torch.testing.assert_close(made.score(HISTORY), whole)


def test_codes_of_a_file(tmp_path):
    write_artefact(tmp_path / "c.safetensors", {"codes": CODES.flip(0)}, {})
    made = model(codes=str(tmp_path / "c.safetensors"))
    made.prepare(Ragged.from_rows([[1, 2]]))
    assert torch.equal(made.item_codes.codes, CODES.flip(0))


def test_mistakes_are_named():
    with pytest.raises(UsageError, match=r"num_inference_steps must be a whole number in 1\.\.3, got 4"):
        model(num_inference_steps=4)
    with pytest.raises(UsageError, match="exact scores need num_inference_steps=1, got None"):
        model(exact=True)
