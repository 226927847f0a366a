"""Codes written one by one have the states that training sees when it looks at all of them at once."""

from __future__ import annotations

import torch

from diffrec.nn.code_decoder import CodeDecoder, DecoderBlock


def test_step_by_step_as_all_at_once():
    torch.manual_seed(0)
    decoder = CodeDecoder([DecoderBlock(12, 2, 0.0, head_size=5, feed_size=16) for _ in range(2)], 12).eval()
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    states, visible = torch.randn(2, 7, 12), torch.tensor([[True] * 7, [True] * 3 + [False] * 4])
    x = torch.randn(2, 5, 3, 12)  # five beams, each of which goes on from a beam of the step before
    parents = torch.tensor([[[0] * 5, [4, 4, 0, 1, 2], [1, 1, 3, 0, 0]], [[0] * 5, [0, 1, 2, 3, 4], [2, 2, 2, 4, 0]]])
    writing = decoder.reading(states, visible)
    paths = None
    for step in range(3):
        here = x[:, :, step]
        got = writing.step(here, parents[:, step])
        if paths is None:
            paths = here[:, :, None]
        else:
            before = paths.gather(1, parents[:, step, :, None, None].expand(-1, -1, step, 12))
            paths = torch.cat([before, here[:, :, None]], dim=2)
        for beam in range(5):
            expected = decoder(paths[:, beam], states, visible)[:, -1]
            torch.testing.assert_close(got[:, beam], expected, rtol=1e-4, atol=1e-5)


def test_what_is_not_visible_changes_nothing():
    torch.manual_seed(0)
    decoder = CodeDecoder([DecoderBlock(12, 2, 0.0, head_size=5, feed_size=16)], 12).eval()
    states, visible, x = torch.randn(1, 4, 12), torch.tensor([[True, True, False, False]]), torch.randn(1, 3, 12)
    other = states.clone()
    other[:, 2:] = 9.0
    torch.testing.assert_close(decoder(x, other, visible), decoder(x, states, visible))
    torch.testing.assert_close(decoder(x, states[:, :2], visible[:, :2]), decoder(x, states, visible))
    later = x.clone()
    later[:, 2] = 5.0
    torch.testing.assert_close(decoder(later, states, visible)[:, :2], decoder(x, states, visible)[:, :2])
