"""Decay and spindle: planted mixtures are found; cancelling is that of its definition."""

import math

import pytest
import torch

from interaction_monitor.functional import orders
from interaction_monitor.functional.shapes import fit_shapes, order_cancellation


def planted(n: int, share: float, rate: float, q: float) -> list[float]:
    decay = [rate ** (k - 1) for k in range(1, n + 1)]
    spindle = [math.comb(n, k) * q**k * (1 - q) ** (n - k) for k in range(1, n + 1)]
    return [share * d / sum(decay) + (1 - share) * s / sum(spindle) for d, s in zip(decay, spindle, strict=True)]


@pytest.mark.parametrize(
    ("share", "rate", "q"), [(1.0, 0.3, 0.5), (0.0, 0.3, 0.5), (0.6, 0.25, 0.45), (0.35, 0.4, 0.6)]
)
def test_planted_mixtures_are_found(share, rate, q):
    fit = fit_shapes(7.0 * torch.tensor(planted(10, share, rate, q)))
    assert fit.decay_share.item() == pytest.approx(share, abs=0.02)
    assert fit.misfit.item() < 0.01
    torch.testing.assert_close((fit.decay + fit.spindle).sum(), torch.tensor(1.0, dtype=torch.float64))
    if share:
        assert fit.rate.item() == pytest.approx(rate, abs=0.02)
    if share < 1:
        assert fit.centre.item() == pytest.approx(10 * q / (1 - (1 - q) ** 10), abs=0.15)


def test_measurements_are_fitted_each_for_itself():
    strength = torch.tensor([[planted(6, 0.2, 0.3, 0.5), [0.0] * 6], [planted(6, 0.9, 0.3, 0.5), [1.0] * 6]])
    fit = fit_shapes(strength)
    assert fit.decay.shape == (2, 2, 6)
    assert fit.decay_share[0, 1].isnan()
    assert fit.spindle[0, 1].isnan().all()
    for i, j in ((0, 0), (1, 0), (1, 1)):
        torch.testing.assert_close(fit.decay_share[i, j], fit_shapes(strength[i, j]).decay_share)
    with pytest.raises(ValueError, match="at least 4 orders"):
        fit_shapes(torch.ones(3))
    with pytest.raises(ValueError, match="must not be negative"):
        fit_shapes(torch.tensor([1.0, -1.0, 0.0, 0.0]))


def test_cancelling_is_that_of_its_definition():
    generator = torch.Generator().manual_seed(0)
    and_, or_ = torch.randn(2, 5, 16, generator=generator, dtype=torch.float64)
    and_[3, 2] = math.nan
    found = order_cancellation(and_, or_, tau=0.4)
    of = orders(4).tolist()
    for k in range(1, 5):
        net = gross = 0.0
        for sample in (0, 1, 2, 4):
            effects = [float(i[sample, s]) for i in (and_, or_) for s in range(16) if of[s] == k]
            effects = [x for x in effects if abs(x) >= 0.4]
            net, gross = net + abs(sum(effects)), gross + sum(map(abs, effects))
        assert float(found[k - 1]) == pytest.approx(1 - net / gross)
    assert order_cancellation(torch.zeros(2, 4), torch.zeros(2, 4)).isnan().all()
