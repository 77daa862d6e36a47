import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interaction_monitor import outputs

LOGITS = torch.tensor([[1.5, -0.3, 4.0], [0.0, 20.0, 1.0], [-2.0, -2.0, 7.5]])
TARGETS = torch.tensor([2, 0, 1])


def probabilities(logits):
    odds = np.exp(logits.numpy().astype(np.longdouble))
    return odds / odds.sum(1, keepdims=True)


def of_targets(p, targets):
    return p[np.arange(len(p)), targets.numpy()]


def test_log_odds_are_those_of_the_softmax():
    p = of_targets(probabilities(LOGITS), TARGETS)
    expected = np.log(p / (1 - p)).astype(float)
    np.testing.assert_allclose(outputs.log_odds(LOGITS, TARGETS), expected, rtol=1e-12)


def test_loss_is_minus_the_log_of_the_probability():
    expected = -np.log(of_targets(probabilities(LOGITS), TARGETS)).astype(float)
    np.testing.assert_allclose(outputs.loss(LOGITS, TARGETS), expected, rtol=1e-12)


def test_logit_is_taken_as_it_is():
    assert outputs.logit(LOGITS, TARGETS).tolist() == [4.0, 0.0, -2.0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("output", [outputs.log_odds, outputs.logit, outputs.loss])
def test_float64_comes_from_any_dtype(output, dtype):
    assert output(LOGITS.to(dtype), TARGETS).dtype == torch.float64


def test_large_logits_lose_nothing():
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [1e4, 1e4 - 1, -1e4]], dtype=torch.float64)
    expected = [1e4, -2e4 - math.log(2), 1.0]
    np.testing.assert_allclose(outputs.log_odds(logits, torch.tensor([0, 0, 0])), expected, rtol=1e-15)
    assert outputs.loss(logits, torch.tensor([0, 0, 0]))[0] == 0
    assert outputs.loss(logits, torch.tensor([0, 0, 0]))[1].item() == pytest.approx(2e4 + math.log(2), rel=1e-15)


def test_small_losses_keep_their_digits():
    # log(1 + e^-30) = e^-30 to 13 digits; a softplus with a threshold returns 0 or the identity.
    loss = outputs.loss(torch.tensor([[30.0, 0.0], [0.0, 30.0]]), torch.tensor([0, 0]))
    np.testing.assert_allclose(loss, [math.exp(-30), 30 + math.exp(-30)], rtol=1e-13)


def test_impossible_classes_are_left_out():
    inf = math.inf
    logits = torch.tensor([[2.0, -inf, 1.0], [-inf, 2.0, 1.0], [2.0, -inf, -inf]])
    odds = outputs.log_odds(logits, torch.tensor([0, 0, 0])).tolist()
    assert odds == [1.0, -inf, inf]


@given(
    st.lists(st.floats(-1e4, 1e4), min_size=2, max_size=6),
    st.floats(-1e4, 1e4),
    st.data(),
)
def test_a_shift_of_all_logits_changes_no_log_odds(logits, shift, data):
    target = torch.tensor([data.draw(st.integers(0, len(logits) - 1))])
    z = torch.tensor([logits], dtype=torch.float64)
    plain, shifted = outputs.log_odds(z, target), outputs.log_odds(z + shift, target)
    torch.testing.assert_close(shifted, plain, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
@pytest.mark.parametrize("targets", [torch.tensor([1, 0]), torch.tensor([1.0, 0.0]), torch.tensor([True, False])])
def test_one_logit_is_a_binary_head(shape, targets):
    z = torch.tensor([0.7, 0.7]).reshape(shape)
    two = torch.stack([torch.zeros(2), z.reshape(2)], dim=1)
    expected = outputs.log_odds(two, torch.tensor([1, 0]))
    assert torch.equal(outputs.log_odds(z, targets), expected)
    assert torch.equal(outputs.logit(z, targets), expected)
    torch.testing.assert_close(outputs.loss(z, targets), outputs.loss(two, torch.tensor([1, 0])))


def test_a_vocabulary_is_worked_through_in_blocks(monkeypatch):
    logits, targets = torch.randn(60, 200_000), torch.randint(200_000, (60,))
    sizes = []
    inner = outputs._log_odds
    monkeypatch.setattr(outputs, "_log_odds", lambda z, y: (sizes.append(z.numel()), inner(z, y))[1])
    blocked = outputs.log_odds(logits, targets)
    assert max(sizes) * 8 <= 2**26
    torch.testing.assert_close(blocked, inner(logits, targets))


@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_probabilities_in_place_of_logits_are_warned_of(scale):
    logits = scale * torch.randn(3, 5, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match=r"probabilities.*forward_func="):
        outputs.warn_of_probabilities(logits.softmax(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fine in (logits, logits.log_softmax(1), logits.sigmoid(), torch.ones(3, 1)):
            outputs.warn_of_probabilities(fine)


def test_names_and_callables_are_resolved():
    assert outputs.resolve("loss") is outputs.loss
    assert outputs.resolve(math.sqrt) is math.sqrt
    with pytest.raises(ValueError, match="'log_odd' is unknown; take one of 'log_odds', 'logit', 'loss'"):
        outputs.resolve("log_odd")
    with pytest.raises(TypeError, match="got int"):
        outputs.resolve(3)


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (LOGITS, None, "the probe has no targets"),
        (LOGITS, torch.tensor([0, 3, 1]), "from 0 to 3, but the model returns logits for 3 classes"),
        (LOGITS, torch.tensor([0, -1, 1]), "from -1 to 1"),
        (LOGITS, torch.tensor([0.0, 1.0, 1.0]), "integer classes, got targets of torch.float32"),
        (LOGITS, torch.zeros(3, 3).long(), r"targets of shape \(3, 3\).*argmax\(1\).*label_log_odds\(label\)"),
        (LOGITS[:, :1], torch.tensor([0, 2, 1]), "2 classes"),
        (LOGITS[None], TARGETS, r"got \(1, 3, 3\)"),
        (LOGITS.long(), TARGETS, "torch.int64"),
    ],
)
def test_bad_logits_and_targets_are_named(logits, targets, message):
    with pytest.raises(ValueError, match=message):
        outputs.log_odds(logits, targets)
