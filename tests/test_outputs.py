import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from interaction_monitor import outputs, targets
from interaction_monitor.forward import assign_players, masked_outputs
from interaction_monitor.players import Columns, ImagePatches
from interaction_monitor.probe import Probe

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


def test_log_odds_of_logits_that_ask_for_a_gradient_are_the_same():
    logits = LOGITS.clone().requires_grad_()
    odds = outputs.log_odds(logits, TARGETS)
    assert torch.equal(odds.detach(), outputs.log_odds(LOGITS, TARGETS))
    odds.sum().backward()
    p = probabilities(LOGITS)
    true = np.eye(3)[TARGETS.numpy()]
    others = p * (1 - true) / (1 - of_targets(p, TARGETS))[:, None]
    np.testing.assert_allclose(logits.grad, (true - others).astype(float), rtol=1e-5)


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
        targets.warn_of_no_logits(logits.softmax(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fine in (logits, logits.log_softmax(1), logits.sigmoid(), torch.ones(3, 1)):
            targets.warn_of_no_logits(fine)


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


ROWS = torch.rand(6, 4, generator=torch.Generator().manual_seed(1))


def outputs_of(model, targets, **options):
    probe = Probe(ROWS, targets)
    return masked_outputs(model, probe, assign_players(model, Columns(n_players=2), probe), **options)


def test_a_column_of_classes_is_what_its_entries_are():
    assert torch.equal(outputs.log_odds(LOGITS, TARGETS[:, None]), outputs.log_odds(LOGITS, TARGETS))
    one = LOGITS[:, :1]
    column, flat = torch.tensor([[1.0], [0.0], [1.0]]), torch.tensor([1, 0, 1])
    assert torch.equal(outputs.log_odds(one, column), outputs.log_odds(one, flat))
    head = nn.Linear(4, 1)
    found = outputs_of(head, torch.tensor([[0.0], [1.0]]).repeat(3, 1))
    with torch.no_grad():
        z = head(ROWS)[:, 0].double()
    torch.testing.assert_close(found[:, -1], z * torch.tensor([-1.0, 1.0]).repeat(3))


def test_the_prediction_of_a_regression_is_its_own_value():
    house = nn.Linear(4, 1)
    with torch.no_grad():
        expected = house(ROWS)[:, 0].double()
    torch.testing.assert_close(outputs_of(house, torch.rand(6, 1), output="prediction")[:, -1], expected)
    torch.testing.assert_close(outputs_of(house, None, output="prediction")[:, -1], expected)
    with pytest.raises(ValueError, match=r"one number per sample.*\(6, 3\).*values\[:, 0\]"):
        outputs.prediction(torch.rand(6, 3))


FRACTIONS = torch.tensor([0.2, 3.7, 1.0])
TWO_OF_THREE = torch.tensor([[1, 1, 0], [0, 1, 1], [1, 0, 1]])


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (LOGITS[:, :1], FRACTIONS, r"fractions such as 0.2; .*regression, give output=\"prediction\"$"),
        (LOGITS[:, :1], FRACTIONS[:, None], r'output="prediction"'),
        (LOGITS[:, :1], torch.tensor([3, 12, 7]), r'binary head.*output="prediction"'),
        (LOGITS[:, :1], FRACTIONS / 4, r"targets > 0\.5"),
        (LOGITS[:, :1], torch.tensor([1, -1, 1]), r"of signs give Probe\(inputs, \(targets > 0\)\.long\(\)\)$"),
        (LOGITS, FRACTIONS, r"fractions.*square"),
        (LOGITS, LOGITS, r"autoencoder.*square"),
        (LOGITS, torch.rand(3, 1, 28, 28), r"autoencoder.*square"),
        (torch.rand(3, 1, 28, 28), torch.rand(3, 1, 28, 28), r"autoencoder.*square"),
        (LOGITS, LOGITS.softmax(1), r"sum to one give Probe\(inputs, targets.argmax\(1\)\)$"),
        (LOGITS, TWO_OF_THREE.float(), r"several labels.*label_log_odds\(label\)"),
        (LOGITS, torch.randint(3, (3, 7)), r"each token.*next_token_log_odds.*most_probable"),
        (LOGITS[:, None].repeat(1, 7, 1), torch.randint(3, (3, 7)), r"next_token_log_odds.*most_probable"),
        (LOGITS[:, :, None, None], TARGETS, r"forward_func=lambda module, x: module\(x\)\.flatten\(1\)"),
        (LOGITS[:, None], TARGETS, r"forward_func=lambda module, x: module\(x\)\.flatten\(1\)"),
        (LOGITS[:, :0], TARGETS, r"at least one class, got the shape \(3, 0\)"),
        (LOGITS, torch.zeros(3, dtype=torch.complex64), "complex targets"),
    ],
)
def test_what_the_targets_are_otherwise_is_said_with_what_to_do(logits, targets, message):
    with pytest.raises(ValueError, match=message):
        outputs.log_odds(logits, targets)


def test_targets_for_each_token_are_named_by_the_output_that_was_asked_for():
    with pytest.raises(ValueError, match="output 'next_token_log_odds' needs one class per sample"):
        outputs.next_token_log_odds(torch.rand(2, 5, 9), torch.randint(9, (2, 5)))


@pytest.mark.parametrize(
    "end",
    [
        nn.Sigmoid(),
        nn.Sequential(nn.Sigmoid(), nn.Flatten(0)),
        nn.Sequential(nn.Sigmoid(), nn.Hardtanh(1e-6, 1 - 1e-6)),
    ],
)
def test_a_sigmoid_head_is_warned_of(end):
    with pytest.warns(UserWarning, match=r"last step is a sigmoid.*before the sigmoid.*torch.logit\(model"):
        outputs_of(nn.Sequential(nn.Linear(4, 1), end), torch.tensor([0, 1] * 3))


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.value = nn.Linear(4, 1), nn.Linear(4, 1)

    def forward(self, x):
        return self.gate(x).sigmoid() * self.value(x).abs() / 100


def test_embeddings_in_place_of_logits_are_warned_of():
    embeddings = torch.nn.functional.normalize(torch.randn(4, 5, generator=torch.Generator().manual_seed(0)))
    with pytest.warns(UserWarning, match=r"embeddings.*forward_func="):
        targets.warn_of_no_logits(embeddings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        targets.warn_of_no_logits(1.001 * embeddings)


def test_logits_that_lie_between_zero_and_one_are_no_probabilities():
    """An untrained head gives such numbers, and so does a gate."""
    head = nn.Linear(4, 1)
    nn.init.constant_(head.bias, 0.5)
    nn.init.uniform_(head.weight, 0.0, 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs_of(head, torch.tensor([0, 1] * 3))
        outputs_of(Gated(), torch.tensor([0, 1] * 3))
        # Of a probability that is asked for as such there is nothing to say.
        outputs_of(nn.Sequential(head, nn.Sigmoid()), None, output="prediction")


def test_an_autoencoder_is_no_classifier_of_as_many_classes_as_pixels():
    probe = Probe(torch.rand(6, 1, 8, 8), torch.arange(6))
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Linear(3, 64))
    drawn = assign_players(net, ImagePatches(grid=4, margin=0, n_players=2), probe)
    with pytest.raises(ValueError, match="seems to be an autoencoder"):
        masked_outputs(net, probe, drawn)
    # 64 columns in 64 classes are nothing strange.
    table = Probe(torch.rand(6, 64), torch.tensor([0, 60, 3, 12, 50, 1]))
    masked_outputs(nn.Linear(64, 64), table, assign_players(net, Columns(n_players=2), table))
    # The squared error that the message proposes is a function of one number per sample.
    same = Probe(probe.inputs, probe.inputs.flatten(1))
    error = masked_outputs(net, same, drawn, output=lambda a, b: -(a - b).double().square().flatten(1).mean(1))
    with torch.no_grad():
        expected = -(net(probe.inputs) - probe.inputs.flatten(1)).square().mean(1)
    torch.testing.assert_close(error[:, -1], expected.double(), rtol=1e-5, atol=1e-8)


def test_smoothed_log_odds_are_those_of_the_authors_formula():
    logits = torch.tensor([[2.0, 0.5, -1.0], [40.0, 0.0, 0.0], [-60.0, 0.0, 0.0]], dtype=torch.float64)
    p = logits.softmax(1)[:, 0]
    expected = (p / (1 - p + 1e-7) + 1e-7).log()
    found = outputs.smoothed_log_odds()(logits, torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert found[1:].tolist() == pytest.approx([16.118, -16.118], abs=1e-3)
    with pytest.raises(ValueError, match="epsilon must lie between 0 and 1, but is 0"):
        outputs.smoothed_log_odds(0.0)


def test_an_autoencoder_whose_batches_have_labels_is_told_what_to_compare():
    values, labels = torch.rand(2, 3, 8, 8), torch.arange(2)
    with pytest.raises(
        ValueError, match=r"autoencoder's.*, give probe=Probe\(x, x\) of x = .*, and give output= a function"
    ):
        outputs.log_odds(values, labels)
    with pytest.raises(ValueError, match=r"segmentation's: give output= a function.*cross_entropy"):
        outputs.log_odds(values, torch.zeros(2, 8, 8, dtype=torch.long))
