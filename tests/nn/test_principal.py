"""Principal directions beside numpy's eigenvalues; whitening is tested with PreferDiff's arrays."""

from __future__ import annotations

import numpy as np
import torch

from diffrec.nn.principal import principal


def test_directions_keep_as_much_spread_as_can_be_kept():
    torch.manual_seed(0)
    vectors = torch.randn(60, 5) @ torch.randn(5, 5) + 3
    largest = np.linalg.eigvalsh(np.cov(vectors.double().numpy().T))[-2:]
    turned = principal(vectors, 2, whiten=False)
    np.testing.assert_allclose(np.cov(turned.numpy().T), np.diag(largest), atol=1e-5)
    np.testing.assert_allclose(turned.mean(0).numpy(), 0, atol=1e-6)
    whole = principal(vectors, 5, whiten=False)
    torch.testing.assert_close(
        torch.cdist(whole, whole), torch.cdist(vectors.double(), vectors.double()), atol=1e-5, rtol=0
    )
