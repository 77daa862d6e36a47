from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interaction_monitor.functional import (
    generalizing_parts,
    generalizing_share,
    generalizing_strength,
    order_effects,
    order_strength,
    order_turnover,
)
from interaction_monitor.functional.generalizing import held_interactions


def network(seed, *, samples=4, n=3, sparse=0.5):
    generator = torch.Generator().manual_seed(seed)
    and_, or_ = torch.randn(2, samples, 2**n, generator=generator, dtype=torch.float64)
    mask = torch.rand(2, samples, 2**n, generator=generator) < sparse
    return and_ * mask[0], or_ * mask[1], 0.4


def brute_force(and_, or_, references, tau, at_least=1):
    """Every interaction by itself: its strength and effect, with and without a reference that has it."""
    samples, size = and_.shape
    n = size.bit_length() - 1
    result = np.zeros((4, samples, n))
    for s in range(samples):
        for kind, effects in ((0, and_), (1, or_)):
            for coalition in range(1, size):
                value = float(effects[s, coalition])
                if abs(value) < tau or value == 0:
                    continue
                others = [(float(r[kind][s, coalition]), float(r[2])) for r in references]
                held = sum(abs(other) >= t and other * value > 0 for other, t in others) >= at_least
                order = bin(coalition).count("1") - 1
                result[0 if held else 2, s, order] += abs(value)
                result[1 if held else 3, s, order] += value
    return result


@pytest.mark.parametrize(("count", "at_least"), [(1, 1), (3, 1), (3, 2), (3, 3)])
def test_every_interaction_is_counted_where_enough_references_have_it(count, at_least):
    and_, or_, tau = network(0, samples=40, sparse=1.0)
    references = [network(seed, samples=40, sparse=1.0) for seed in range(1, 1 + count)]
    expected = brute_force(and_, or_, references, tau, at_least)
    assert expected[0].sum() > 0
    assert expected[2].sum() > 0
    parts = generalizing_parts(and_, or_, references, tau=tau, at_least=at_least)
    names = ("strength", "effect", "other_strength", "other_effect")
    for name, values in zip(names, expected, strict=True):
        np.testing.assert_allclose(getattr(parts, name), values, atol=1e-12)
    strength = generalizing_strength(and_, or_, references, tau=tau, at_least=at_least)
    np.testing.assert_allclose(strength, expected[0], atol=1e-12)

    cancelled = 1 - abs(expected[3]) / np.where(expected[2] > 0, expected[2], np.nan)
    np.testing.assert_allclose(parts.other_cancelled, cancelled, atol=1e-12)


@pytest.mark.parametrize("at_least", [0, 3])
def test_as_many_references_as_there_are_not_are_refused(at_least):
    and_, or_, tau = network(0)
    with pytest.raises(ValueError, match=f"at_least must be from 1 to the number of references, 2, but is {at_least}"):
        generalizing_strength(and_, or_, [network(1), network(2)], tau=tau, at_least=at_least)


def test_kinds_are_not_mixed_and_the_empty_coalition_never_counts():
    one = torch.tensor([[5.0, 0.0, 0.0, 2.0]])
    zero = torch.zeros(1, 4)
    assert generalizing_strength(one, zero, [(zero, one, 0.1)], tau=0.1).tolist() == [[0.0, 0.0]]
    assert generalizing_strength(one, zero, [(one, zero, 0.1)], tau=0.1).tolist() == [[0.0, 2.0]]
    assert generalizing_strength(one, None, [(one, None, 0.1)], tau=0.1).tolist() == [[0.0, 2.0]]


def test_an_interaction_at_the_threshold_counts_as_it_does_for_order_strength():
    one = torch.tensor([[0.0, 0.5, 0.0, 0.25]], dtype=torch.float64)
    zero = torch.zeros_like(one)
    assert generalizing_strength(one, zero, [(one, zero, 0.5)], tau=0.25).tolist() == [[0.5, 0.0]]
    assert generalizing_strength(one, zero, [(one, zero, 0.25)], tau=0.5).tolist() == [[0.5, 0.0]]
    # nothing is salient with no sign, whatever the threshold
    assert generalizing_strength(zero, zero, [(zero, zero, 0.0)], tau=0.0).sum() == 0


def test_thresholds_may_differ_by_sample():
    one = torch.ones(2, 4, dtype=torch.float64)
    taus = torch.tensor([0.5, 2.0])
    assert generalizing_strength(one, None, [(one, None, 0.5)], tau=taus).sum(-1).tolist() == [3.0, 0.0]
    assert generalizing_strength(one, None, [(one, None, taus)], tau=0.5).sum(-1).tolist() == [3.0, 0.0]


interactions = st.integers(0, 2**31).map(network)


@settings(max_examples=30, deadline=None)
@given(interactions, interactions, interactions, st.floats(0.0, 1.5), st.floats(0.1, 10.0))
def test_what_holds_for_any_networks(watched, first, second, tau, scale):
    and_, or_, _ = watched
    strength = order_strength(and_, or_, tau)
    itself = generalizing_strength(and_, or_, [(and_, or_, tau)], tau=tau)
    torch.testing.assert_close(itself, strength)
    opposite = generalizing_strength(and_, or_, [(-and_, -or_, tau)], tau=tau)
    assert opposite.sum() == 0
    one = generalizing_strength(and_, or_, [first], tau=tau)
    both = generalizing_strength(and_, or_, [first, second], tau=tau)
    assert (one <= both + 1e-12).all()
    assert (both <= strength + 1e-12).all()
    torch.testing.assert_close(generalizing_strength(and_, or_, [second, first], tau=tau), both)
    # a reference counts by its own threshold alone, so its scale does not matter
    scaled = [(first[0] * scale, first[1] * scale, first[2] * scale), second]
    torch.testing.assert_close(generalizing_strength(and_, or_, scaled, tau=tau), both)
    parts = generalizing_parts(and_, or_, [first, second], tau=tau)
    torch.testing.assert_close(parts.strength + parts.other_strength, strength)
    salient = [kind.where(kind.abs() >= tau, 0) for kind in (and_, or_)]
    torch.testing.assert_close(parts.effect + parts.other_effect, order_effects(*salient))
    for cancelled in (parts.cancelled, parts.other_cancelled):
        known = cancelled[cancelled.isfinite()]
        assert ((known >= -1e-12) & (known <= 1)).all()


def test_a_sample_that_some_network_does_not_know_is_left_out_for_all():
    and_, or_, tau = network(0)
    reference = [kind.clone() if torch.is_tensor(kind) else kind for kind in network(1)]
    and_[0, 3], reference[1][1, 5] = math.inf, math.nan
    parts = generalizing_parts(and_, or_, [tuple(reference), network(2)], tau=tau)
    for values in (parts.strength, parts.effect, parts.other_strength, parts.other_effect):
        assert values.isnan().all(-1).tolist() == [True, True, False, False]
    generalizing = generalizing_strength(and_, or_, [tuple(reference), network(2)], tau=tau)
    assert generalizing.isnan().all(-1).tolist() == [True, True, False, False]
    strength = order_strength(and_, or_, tau)
    left = slice(2, None)
    assert generalizing_share(generalizing, strength) == generalizing_share(generalizing[left], strength[left])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda a, o: (a, o, []), "references must hold .* at least one network, but is empty"),
        (lambda a, o: (a, o, (a, o, 0.1)), r"references\[0\] must be \(and_, or_, tau\)"),
        (lambda a, o: (a, o[:2], [(a, o, 0.1)]), "and_ and or_ must have one shape"),
        (lambda a, o: (a, o, [(a, o, 0.1), (a[:2], o, 0.1)]), r"references\[1\]: and_ is \(2, 8\), but the network's"),
        (lambda a, o: (a, o, [(a, None, 0.1)]), "the reference has no OR interactions and the network has"),
        (lambda a, o: (a, None, [(a, o, 0.1)]), "the network has no OR interactions and the reference has"),
        (lambda a, o: (a[:, :7], o[:, :7], [(a, o, 0.1)]), "all 2.* coalitions"),
    ],
)
def test_what_does_not_fit_is_named(arguments, message):
    and_, or_, _ = network(0)
    for function in (generalizing_strength, generalizing_parts):
        with pytest.raises(ValueError, match=message):
            function(*arguments(and_, or_), tau=0.1)


def test_the_share_weighs_samples_by_their_strength():
    strength = torch.tensor([[3.0, 1.0], [10.0, 0.0], [0.0, 6.0]])
    generalizing = torch.tensor([[3.0, 0.0], [5.0, 0.0], [0.0, 0.0]])
    low, share, high = generalizing_share(generalizing, strength)
    assert share == pytest.approx(8 / 20)
    assert 0 <= low < share < high <= 1
    assert generalizing_share(generalizing[:, [0]], strength[:, [0]]).share == pytest.approx(8 / 13)
    assert all(math.isnan(x) for x in generalizing_share(torch.zeros(3, 2), torch.zeros(3, 2)))
    assert generalizing_share(generalizing[:1], strength[:1]) == (0.0, 0.75, 1.0)
    with pytest.raises(ValueError, match=r"must both be \(samples, orders\)"):
        generalizing_share(generalizing[:2], strength)
    with pytest.raises(ValueError, match="level must lie between 0 and 1"):
        generalizing_share(generalizing, strength, level=95)
    with pytest.raises(ValueError, match=r"generalizing is a part of strength, but is 2\.5 times as much"):
        generalizing_share(strength, generalizing)


def test_held_interactions_do_not_depend_on_the_networks_threshold():
    and_, or_, _ = network(0)
    references = [network(1)]
    held = held_interactions(and_, or_, references)
    for tau in (0.0, 0.5, 1.0):
        torch.testing.assert_close(order_strength(*held, tau), generalizing_strength(and_, or_, references, tau=tau))


def games(seed: int, *shape: int) -> torch.Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return drawn.round(decimals=1)


class TestTurnover:
    @given(seed=st.integers(0, 10_000), n=st.integers(1, 4))
    def test_counts_sets(self, seed, n):
        and_, or_, then_and, then_or = games(seed, 4, 2**n)
        tau, before_tau = 0.7, 0.4
        result = order_turnover((then_and, then_or), (and_, or_), before_tau=before_tau, tau=tau)
        expected = {"persisted": [0.0] * n, "appeared": [0.0] * n, "vanished": [0.0] * n}
        for then, now in ((then_and, and_), (then_or, or_)):
            for coalition in range(1, 2**n):
                order = coalition.bit_count() - 1
                before, here = float(then[coalition]), float(now[coalition])
                was, is_ = abs(before) >= before_tau, abs(here) >= tau
                if was and is_ and before * here > 0:
                    expected["persisted"][order] += abs(here)
                    continue
                expected["appeared"][order] += abs(here) * is_
                expected["vanished"][order] += abs(before) * was
        for name, values in expected.items():
            assert getattr(result, name).tolist() == pytest.approx(values)
        torch.testing.assert_close(result.persisted + result.appeared, order_strength(and_, or_, tau))

    def test_nothing_changes_without_a_change(self):
        and_, or_ = games(0, 2, 3, 16)
        result = order_turnover((and_, or_), (and_, or_), before_tau=0.5, tau=0.5)
        torch.testing.assert_close(result.persisted, order_strength(and_, or_, 0.5))
        assert not result.appeared.any()
        assert not result.vanished.any()

    def test_a_turned_sign_is_another_pattern(self):
        one, none = torch.tensor([0.0, 2.0]), torch.zeros(2)
        result = order_turnover((one, none), (-one, none), before_tau=0.1, tau=0.1)
        assert (result.persisted.item(), result.appeared.item(), result.vanished.item()) == (0.0, 2.0, 2.0)

    def test_a_sample_that_is_not_finite_is_unknown(self):
        before, now = games(1, 2, 2, 8), games(2, 2, 2, 8)
        before[0, 1, 3] = math.nan
        result = order_turnover(tuple(before), tuple(now), before_tau=0.1, tau=0.1)
        assert result.persisted[1].isnan().all()
        assert result.persisted[0].isfinite().all()

    def test_shapes_must_agree(self):
        with pytest.raises(ValueError, match="must have one shape"):
            order_turnover((torch.zeros(4),) * 2, (torch.zeros(8),) * 2, before_tau=0.1, tau=0.1)
