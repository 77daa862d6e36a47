"""Metrics of several networks, against the functions that they are means of."""

from __future__ import annotations

import matplotlib as mpl
import pytest
import torch

from interaction_monitor import functional
from interaction_monitor.metrics import GeneralizationPower, SharedStrength

mpl.use("Agg")

N = 4


def interactions(m, samples, seed, density=0.5):
    generator = torch.Generator().manual_seed(seed)
    effects = torch.randn(m, samples, 2**N, generator=generator, dtype=torch.float64)
    return effects * (torch.rand(m, samples, 2**N, generator=generator) < density)


def test_networks_that_share_nothing_have_no_power_by_default():
    effects = torch.zeros(2, 1, 2**N)
    effects[0, 0, 1] = effects[1, 0, 2] = 1.0
    metric = GeneralizationPower(n_networks=2)
    metric.update(effects, effects)
    assert all((power == 0).all() for power in metric.compute().values())
    strength = SharedStrength(n_networks=2, n_players=N, k=100)
    strength.update(effects, effects)
    assert (strength.compute()["shared_positive"] == 0).all()


def test_metrics_are_the_means_over_samples() -> None:
    and_, or_ = interactions(2, 7, 0), interactions(2, 7, 1)
    or_[:, 2] = 0  # a sample without OR interactions has no power
    power = GeneralizationPower(n_networks=2, ks=(2, 5))
    strength = SharedStrength(n_networks=2, n_players=N)
    for part in (slice(0, 3), slice(3, 7)):
        power.update(and_[:, part], or_[:, part])
        strength.update(and_[:, part], or_[:, part])
    result = power.compute()
    torch.testing.assert_close(result["and"], functional.generalization_curve(and_, (2, 5)).mean(1))
    expected = functional.generalization_curve(or_, (2, 5))
    assert expected[:, 2].isnan().all()
    torch.testing.assert_close(result["or"], expected.nanmean(1))
    sharing = functional.order_sharing(and_, or_, *functional.salient(and_, or_))
    torch.testing.assert_close(strength.compute()["all_negative"], sharing.all_negative.mean(1))
    torch.testing.assert_close(strength.compute()["shared_positive"], sharing.shared_positive.mean(1))
    top = SharedStrength(n_networks=2, n_players=N, k=3)
    top.update(and_, or_)
    sharing = functional.order_sharing(and_, or_, functional.strongest(and_, 3), functional.strongest(or_, 3))
    torch.testing.assert_close(top.compute()["all_positive"], sharing.all_positive.mean(1))


def test_metrics_draw_themselves() -> None:
    and_, or_ = interactions(2, 3, 0), interactions(2, 3, 1)
    power, strength = GeneralizationPower(n_networks=2, ks=(2, 5)), SharedStrength(n_networks=2, n_players=N)
    power.update(and_, or_)
    strength.update(and_, or_)
    _, ax = power.plot()
    assert [line.get_ydata().tolist() for line in ax.lines] == [
        power.compute()[kind].mean(0).tolist() for kind in ("and", "or")
    ]
    _, ax = strength.plot()
    heights = sorted(patch.get_height() for patch in ax.patches)
    expected = torch.cat([value.mean(0) for name, value in strength.compute().items()])
    assert heights == pytest.approx(expected.sort().values.tolist())


def test_bad_input_says_what_to_do():
    effects = interactions(2, 3, 0)
    with pytest.raises(ValueError, match="n_networks must be at least 2, but is 1"):
        GeneralizationPower(n_networks=1)
    with pytest.raises(ValueError, match=r"\(2, samples, 2\^n\)"):
        GeneralizationPower(n_networks=2).update(interactions(3, 1, 0), interactions(3, 1, 0))
    with pytest.raises(ValueError, match=r"\(2, samples, 8\)"):
        SharedStrength(n_networks=2, n_players=3).update(effects, effects)
