"""Everything public keeps on its tensors' device, and on the CPU where that has no float64.

Most of it runs on a pretended device (see `pretended_device`); where there is a GPU, on that too.
"""

import inspect
import math
from dataclasses import fields, is_dataclass
from functools import partial

import pytest
import torch
from pretended_device import CPU, PretendedDevice
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_map

import interaction_monitor
from interaction_monitor import (
    Observer,
    PhaseTracker,
    Probe,
    Record,
    Thresholds,
    assign_players,
    functional,
    interpret,
    language_models,
    masked_outputs,
    measure,
    metrics,
    outputs,
    players,
    theory,
)
from interaction_monitor._checks import float64_device
from interaction_monitor.comparison import Network, compare_networks, compare_outputs

N, SAMPLES, NETWORKS = 4, 3, 2
ROUGHLY = 4.0  # each operation takes its time on a pretended device: an extraction stops at its first look

generator = torch.Generator().manual_seed(0)


def drawn(*shape):
    return torch.randn(*shape, generator=generator)


V, AND, OR = drawn(SAMPLES, 2**N), drawn(SAMPLES, 2**N), drawn(SAMPLES, 2**N)
OR[:, [0, 1, 2, 4, 8]] = 0
ALL_V, ALL_AND, ALL_OR = (drawn(NETWORKS, SAMPLES, 2**N) for _ in range(3))
MASKS = ALL_AND > 0, ALL_OR > 0
STRENGTH = functional.order_strength(AND, OR, 0.1).float()
TAU = torch.tensor(0.01)
EACH_TAU = torch.full((SAMPLES,), 0.01)
LEVELS = torch.tensor([0.0, 0.1, 1.0])
MEASUREMENTS = torch.stack([STRENGTH, STRENGTH + 0.1])
CLASSES = torch.tensor([0, 1, 0])
LOGITS, ONE_LOGIT, TARGETS = drawn(SAMPLES, 5), drawn(SAMPLES, 1), torch.tensor([0, 4, 1])
IMAGES = drawn(SAMPLES, 1, 8, 8)


def updated(metric, *given):
    def run(put, device):
        moved = metric().to(device)
        for _ in range(2):
            called(moved.update, *given)(put, device)
        first = moved.compute()
        moved.reset()
        called(moved.update, *given)(put, device)
        return first, moved.compute()

    return run


def called(function, *given, **named):
    """A call whose tensors are put on the device, those in tuples too."""

    def on(put, x):
        if isinstance(x, tuple):
            return tuple(on(put, part) for part in x)
        return put(x) if isinstance(x, torch.Tensor) else x

    def run(put, device):
        return function(*on(put, given), **{name: on(put, x) for name, x in named.items()})

    return run


F, T = functional, theory
CASES = {
    "functional": {
        "and_interactions": [called(F.and_interactions, V)],
        "and_outputs": [called(F.and_outputs, AND)],
        "or_interactions": [called(F.or_interactions, V)],
        "or_outputs": [called(F.or_outputs, OR)],
        "orders": [lambda put, device: F.orders(N, device)],
        "n_players": [called(F.n_players, V)],
        "highest_bit_first": [called(F.highest_bit_first, V)],
        "order_one_as_and": [called(F.order_one_as_and, AND, V)],
        "saliency_threshold": [called(F.saliency_threshold, V)],
        "order_strength": [
            called(F.order_strength, AND, OR, TAU),
            called(F.order_strength, AND, None, EACH_TAU),
            called(F.order_strength, AND, OR, 0.01),
        ],
        "salient_counts": [called(F.salient_counts, AND, OR, EACH_TAU), called(F.salient_counts, AND, None, 0.01)],
        "salient_outputs": [called(F.salient_outputs, AND, OR, EACH_TAU), called(F.salient_outputs, AND, None, 0.01)],
        "order_distribution": [called(F.order_distribution, STRENGTH), called(F.order_distribution, 0 * STRENGTH)],
        "mean_order": [called(F.mean_order, STRENGTH)],
        "high_order_share": [called(F.high_order_share, STRENGTH)],
        "noise_floor": [called(F.noise_floor, N, torch.tensor(0.5))],
        "mean_order_influence": [called(F.mean_order_influence, STRENGTH)],
        "mean_order_interval": [called(F.mean_order_interval, STRENGTH)],
        "matching_error": [called(F.matching_error, V, AND, OR, 0.1 * V), called(F.matching_error, V, AND, None)],
        "matching_precision": [called(F.matching_precision, V, AND, OR, 3)],
        "matching_precision_curve": [called(F.matching_precision_curve, V, AND, None)],
        "sparsity_curve": [called(F.sparsity_curve, AND, OR)],
        "shapley_values": [called(F.shapley_values, AND, OR), called(F.shapley_values, AND, None)],
        "order_turnover": [
            called(F.order_turnover, (AND, OR), (V, OR), before_tau=0.02, tau=0.01),
            called(F.order_turnover, (AND, OR), (V, OR), before_tau=EACH_TAU, tau=TAU),
        ],
        "order_effects": [called(F.order_effects, AND, OR)],
        "order_similarity": [
            called(F.order_similarity, (AND, OR), (V, OR)),
            called(F.order_similarity, (AND, OR), (V, OR), (CLASSES, CLASSES)),
            lambda put, device: F.order_similarity((put(AND), put(OR)), (put(V), put(OR)), (CLASSES, CLASSES)),
        ],
        "generalizing_strength": [
            called(F.generalizing_strength, AND, OR, ((V, OR, 0.1), (AND, OR, EACH_TAU)), tau=TAU),
            called(F.generalizing_strength, AND, None, ((V, None, 0.1),), tau=0.01),
        ],
        "generalizing_parts": [called(F.generalizing_parts, AND, OR, ((V, OR, 0.1),), tau=EACH_TAU)],
        "generalizing_share": [called(F.generalizing_share, STRENGTH / 2, STRENGTH)],
        "strongest": [called(F.strongest, AND, 3, floor=0.1)],
        "salient": [called(F.salient, AND, OR)],
        "generalization_power": [called(F.generalization_power, MASKS[0])],
        "generalization_curve": [called(F.generalization_curve, ALL_AND, (1, 3))],
        "overlap": [called(F.overlap, AND, V, 3)],
        "order_sharing": [called(F.order_sharing, ALL_AND, ALL_OR, *MASKS)],
        "sparsest_and_or": [called(F.sparsest_and_or, V, tol=ROUGHLY), called(F.sparsest_and_or, V[:1], tol=1e-4)],
        "shared_and_or": [
            called(F.shared_and_or, ALL_V, share_bound=0.1, normalize=True, tol=ROUGHLY),
            called(F.shared_and_or, ALL_V, share_bound=math.inf, tol=ROUGHLY),
        ],
    },
    "theory": {
        "predict": [called(T.predict, V, 0.1), called(T.predict, V, LEVELS)],
        "predict_and_or": [
            called(T.predict_and_or, AND, OR, TAU),
            called(T.predict_and_or, AND, OR, 0.1, or_whole=EACH_TAU),
            lambda put, device: T.predict_and_or(put(AND), put(OR), LEVELS).threshold(),
        ],
        "predicted_strength": [
            called(T.predicted_strength, AND, OR, LEVELS, or_whole=EACH_TAU),
            called(T.predicted_strength, AND, None, 0.1),
        ],
        "fit_sigma2": [
            called(T.fit_sigma2, MEASUREMENTS, AND, OR, tau=0.01, replicates=5),
            called(T.fit_sigma2, MEASUREMENTS, AND, tau=0.01, replicates=5, distance="jensen-shannon"),
            called(T.fit_sigma2, MEASUREMENTS, AND, tau=0.01, replicates=5, distance="cosine"),
        ],
        "jensen_shannon": [called(T.jensen_shannon, STRENGTH, STRENGTH + 0.1)],
        "norm_ratio": [called(T.norm_ratio, N, LEVELS)],
        "row_norms": [called(T.row_norms, N, LEVELS)],
    },
    "outputs": {
        "log_odds": [called(outputs.log_odds, LOGITS, TARGETS), called(outputs.log_odds, ONE_LOGIT, TARGETS % 2)],
        "logit": [called(outputs.logit, LOGITS, TARGETS), called(outputs.logit, ONE_LOGIT, TARGETS % 2)],
        "loss": [called(outputs.loss, LOGITS, TARGETS)],
        "next_token_log_odds": [called(outputs.next_token_log_odds, LOGITS[:, None], TARGETS)],
        "label_log_odds": [called(outputs.label_log_odds(1), LOGITS)],
        "prediction": [called(outputs.prediction, ONE_LOGIT)],
        "smoothed_log_odds": [called(outputs.smoothed_log_odds(), LOGITS, TARGETS)],
        "score_of": [called(partial(outputs.score_of, outputs.log_odds), LOGITS, TARGETS)],
    },
    "metrics": {
        "GeneralizingStrength": [updated(lambda: metrics.GeneralizingStrength(N), V, AND, OR, ((V, OR, 0.1),))],
        "OrderDistribution": [updated(lambda: metrics.OrderDistribution(N), V, AND, OR)],
        "GeneralizationPower": [updated(lambda: metrics.GeneralizationPower(NETWORKS, ks=(1, 3)), ALL_AND, ALL_OR)],
        "SharedStrength": [
            updated(lambda: metrics.SharedStrength(NETWORKS, N), ALL_AND, ALL_OR),
            updated(lambda: metrics.SharedStrength(NETWORKS, N, k=3), ALL_AND, ALL_OR),
        ],
    },
}
# Results and errors, and what takes no tensor.
WITHOUT_TENSORS = {
    "functional": {
        "GeneralizingParts", "MeanOrderInterval", "OrderSharing", "ShareInterval", "SharedAndOr", "SparsestAndOr",
        "ToleranceNotMetWarning", "Turnover", "coalition", "first_high_order", "members",
    },
    "theory": {"Distance", "NoOverlayError", "Overlay", "Prediction", "SigmaFit", "Trend", "fit_record"},
    "outputs": {"resolve"},
    "metrics": set(),
}  # fmt: skip


def public(module):
    if hasattr(module, "__all__"):
        return set(module.__all__)
    return {
        name for name, one in vars(module).items()
        if inspect.isfunction(one) and one.__module__ == module.__name__ and not name.startswith("_")
    }  # fmt: skip


@pytest.mark.parametrize("module", [functional, theory, outputs, metrics])
def test_nothing_public_is_left_out(module):
    short = module.__name__.rpartition(".")[2]
    assert public(module) == CASES[short].keys() | WITHOUT_TENSORS[short]


def leaves(result):
    if is_dataclass(result):
        return [leaf for field in fields(result) for leaf in leaves(getattr(result, field.name))]
    if isinstance(result, dict):
        return [leaf for value in result.values() for leaf in leaves(value)]
    if isinstance(result, (tuple, list)):
        return [leaf for value in result for leaf in leaves(value)]
    return [result]


def agree(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        if isinstance(one, torch.Tensor):
            torch.testing.assert_close(one.cpu(), other, equal_nan=True)
        else:
            assert one == pytest.approx(other, nan_ok=True)


NAMED = [
    pytest.param(case, id=f"{module}.{name}-{number}")
    for module, named in CASES.items()
    for name, cases in named.items()
    for number, case in enumerate(cases)
]


@pytest.mark.parametrize("case", NAMED)
@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_result_is_where_its_tensors_are(kind, case):
    expected = leaves(case(lambda x: x, "cpu"))
    with PretendedDevice(kind) as pretended:
        found = leaves(case(pretended.put, pretended.device))
        places = {(x.device, x.dtype == torch.float64) for x in found if isinstance(x, torch.Tensor)}
        agree(found, expected)
    for device, is_float64 in places:
        assert device == (CPU if is_float64 and kind == "mps" else pretended.device)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("case", NAMED)
def test_a_result_is_on_the_gpu(case):
    found = leaves(case(lambda x: x.cuda(), "cuda"))
    assert all(x.is_cuda for x in found if isinstance(x, torch.Tensor))
    agree(found, leaves(case(lambda x: x, "cpu")))


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU())
        self.rest = nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(192, 5))

    def forward(self, x):
        return self.rest(self.first(x))


class Blocks(nn.Module):
    """Tokens of patches, as a transformer for images has them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.rest = nn.Linear(6, 4), nn.Linear(4, 5)

    def forward(self, x):
        return self.rest(self.first(x).tanh().mean(1))


class Reading(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.rest = nn.Embedding(20, 4), nn.Linear(4, 5)

    def forward(self, input_ids, attention_mask):
        return self.rest((self.first(input_ids) * attention_mask[..., None]).cumsum(1).tanh().sum(1))


VOCABULARY = [f"word{number}" for number in range(20)]
TOKENS = drawn(SAMPLES, 16, 6)
SENTENCES = {
    "input_ids": torch.arange(3, 3 + 6 * SAMPLES).reshape(SAMPLES, 6) % 20,
    "attention_mask": torch.tensor([[1] * 6, [1] * 5 + [0], [1] * 6]),
}
GRID = {"grid": 4, "margin": 0, "n_players": N}
ROWS = (torch.arange(64) // 16).reshape(1, 8, 8)
KINDS = {
    "image": (players.ImagePatches(**GRID), IMAGES),
    "feature": (players.FeaturePatches("first", **GRID), IMAGES),
    "feature mean": (players.FeaturePatches("first", **GRID, baseline=lambda x: x.mean()), IMAGES),
    "segments": (players.Segments(ROWS, baseline=torch.zeros(1, 8, 8).double()), IMAGES),
    "columns": (players.Columns(n_players=N), IMAGES.flatten(1)),
    "points": (players.PointClusters(n_clusters=8, n_players=N), drawn(SAMPLES, 20, 3)),
    "spans": (players.Spans(axis=1, n_spans=6, n_players=N), drawn(SAMPLES, 12, 2)),
    "tokens": (players.TokenPatches("first", **GRID), TOKENS),
    "words": (players.Words(VOCABULARY, n_players=N, baseline=0), SENTENCES),
    "words at the embedding": (players.Words(VOCABULARY, n_players=N, layer="first", baseline=0.0), SENTENCES),
}


def network_for(inputs):
    known = {id(IMAGES): Small, id(TOKENS): Blocks, id(SENTENCES): Reading}
    if id(inputs) in known:
        return known[id(inputs)]().train()
    return nn.Sequential(nn.Flatten(), nn.Linear(inputs[0].numel(), 5))


@pytest.fixture
def known_memory(monkeypatch):
    properties = type("Properties", (), {"total_memory": 2**34})()
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)


@pytest.mark.usefixtures("known_memory")
@pytest.mark.parametrize("kind", ["cuda", "mps"])
@pytest.mark.parametrize("probe_there", [False, True])
@pytest.mark.parametrize(
    ("kind_of_players", "output"),
    [*((kind, "log_odds") for kind in KINDS), ("image", "loss"), ("image", lambda logits, _: logits.double().sum(1))],
)
def test_a_network_is_measured_on_its_device(kind, kind_of_players, output, probe_there):
    chosen, inputs = KINDS[kind_of_players]
    model = network_for(inputs)
    probe = Probe(inputs, TARGETS)
    expected = masked_outputs(model, probe, assign_players(model, chosen, probe), output=output)
    with PretendedDevice(kind) as pretended:
        model = model.to(pretended.device)
        there = Probe(tree_map(pretended.put, inputs), pretended.put(TARGETS)) if probe_there else probe
        drawn_players = assign_players(model, chosen, there)
        found = masked_outputs(model, there, drawn_players, output=output, chunk_size=6)
        assert found.device == (CPU if kind == "mps" else pretended.device)
        # In chunks of another size a kernel may round float32 otherwise.
        torch.testing.assert_close(found.cpu(), expected, rtol=1e-5, atol=1e-5)
        measured = measure(model, there, drawn_players, output=output, thresholds=Thresholds(tol=ROUGHLY))
        assert {x.device for x in leaves(measured) if isinstance(x, torch.Tensor)} == {CPU}
        # The rounding is known where there is a higher precision.
        assert math.isnan(measured.rounding) == (kind == "mps")


@pytest.mark.usefixtures("known_memory")
@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_an_observer_measures_and_records_a_network_on_its_device(kind, tmp_path):
    model, probe = Small(), Probe(IMAGES, TARGETS)
    drawn_players = assign_players(model, KINDS["feature"][0], probe)
    settings = {"thresholds": Thresholds(tol=ROUGHLY)}
    expected = Observer(probe, drawn_players, train=(probe, drawn_players), **settings)
    rows = [expected.observe(model, epoch=epoch, step=epoch) for epoch in range(2)]
    with PretendedDevice(kind) as pretended:
        model = model.to(pretended.device)
        there = Probe(pretended.put(IMAGES), pretended.put(TARGETS))
        on_device = assign_players(model, KINDS["feature"][0], there)
        record = Record.create(tmp_path / "record", settings={}, players=on_device, probe=there)
        observer = Observer(there, on_device, train=(there, on_device), record=record, **settings)
        for row in rows:
            found = observer.observe(model, epoch=row.epoch, step=row.step)
            assert found.mean_order == pytest.approx(row.mean_order)
            assert found.train_strength == pytest.approx(row.train_strength)
            assert found.persisted == pytest.approx(row.persisted)
    opened = Record.open(record.folder)
    assert torch.equal(opened.players.labels, drawn_players.labels)
    assert torch.equal(opened.probe_inputs, IMAGES)
    torch.testing.assert_close(opened.measurements[-1].v, expected.last.v)


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_outputs_and_strengths_are_taken_from_a_device(kind):
    thresholds = Thresholds(tol=ROUGHLY)
    expected = interpret(V, thresholds=thresholds)
    with PretendedDevice(kind) as pretended:
        found = interpret(pretended.put(V), thresholds=thresholds)
        torch.testing.assert_close(found.strength, expected.strength)
        state = PhaseTracker().update(epoch=0, strength=pretended.put(STRENGTH))
    assert state == PhaseTracker().update(epoch=0, strength=STRENGTH)


@pytest.mark.usefixtures("known_memory")
@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_networks_are_compared_on_their_device(kind, monkeypatch):
    monkeypatch.setattr("interaction_monitor.comparison.compare_outputs", partial(compare_outputs, tol=ROUGHLY))
    probe = Probe(IMAGES, TARGETS)
    networks = [Network(network_for(IMAGES), probe, KINDS["image"][0]) for _ in range(2)]
    expected = compare_networks(networks)
    with PretendedDevice(kind) as pretended:
        for network in networks:
            network.module.to(pretended.device)
        torch.testing.assert_close(compare_networks(networks).shared.and_, expected.shared.and_)


class Speaking(nn.Module):
    """As much of a language model as the functions of `language` ask for."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(7, 4), nn.Linear(4, 7)

    def get_output_embeddings(self):
        return self.head

    def forward(self, input_ids, attention_mask=None):
        return self.head(self.embedding(input_ids).cumsum(1))


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_the_next_token_is_found_on_the_device(kind):
    assert public(language_models) == {"last_token_logits", "learn_baseline", "most_probable", "read_baseline"}
    sentences = {"input_ids": torch.arange(6).reshape(2, 3), "attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])}
    model = Speaking()
    expected = language_models.most_probable(model, Probe(sentences)).targets
    with PretendedDevice(kind) as pretended:
        model.to(pretended.device)
        assert torch.equal(language_models.most_probable(model, Probe(sentences)).targets, expected)
        there = Probe({name: pretended.put(x) for name, x in sentences.items()})
        found = language_models.most_probable(model, there).targets
        assert found.device == pretended.device
        assert torch.equal(found.cpu(), expected)


def test_a_baseline_is_learned_on_the_device():
    probe = Probe(torch.arange(1, 5).repeat(2, 1), torch.tensor([0, 1]))
    words = players.Words([*"-abcde"], n_players=3, layer="embedding", baseline=torch.zeros(4), stop_words=())
    model, options = Speaking(), {"forward_func": lambda net, x: net(x).sum(1), "output": "log_odds", "epochs": 2}
    drawn = assign_players(model, words, probe)
    expected = language_models.learn_baseline(model, probe, drawn, **options)
    with PretendedDevice("cuda") as pretended:
        model.to(pretended.device)
        found = language_models.learn_baseline(model, probe, drawn, **options)
        torch.testing.assert_close(found.cpu(), expected)


def test_the_public_names_are_those_that_are_tested_here():
    assert set(interaction_monitor.__all__) == {
        "InteractionMonitor", "Measurement", "Observer", "PhaseTracker", "Probe", "Record", "Thresholds",
        "assign_players", "interpret", "masked_outputs", "measure",
    }  # fmt: skip
    assert set(players.__all__) - {"Baseline", "PlayerMap", "Players"} == {
        "Columns", "FeaturePatches", "ImagePatches", "PointClusters", "Segments", "Spans", "TokenPatches", "Words",
    }  # fmt: skip


# Whether torch refuses to mix devices: a tensor here, on the CPU, and one there.
MIXED = {
    "add": (lambda here, there: here + there, True),
    "a number of the CPU": (lambda here, there: here.sum() + there, False),
    "a number of the device": (lambda here, there: here + there.sum(), True),
    "matmul": (lambda here, there: here @ there, True),
    "where": (lambda here, there: torch.where(there > 0, here, there), True),
    "where with a number": (lambda here, there: torch.where(there > 0, 0.0, there), False),
    "stack": (lambda here, there: torch.stack((here, there)), True),
    "gather": (lambda here, there: here.gather(0, there.long()), True),
    "index of the CPU": (lambda here, there: there[here[0].long()], False),
    "index of the device": (lambda here, there: here[there.sum(0).long() // 2], True),
    "copy": (lambda here, there: there.copy_(here), False),
    "linear": (lambda here, there: nn.functional.linear(there, here), True),
    "compare": (lambda here, there: here >= there, True),
    "fill": (lambda here, there: there.masked_fill(here > 0, 0.0), True),
}


@pytest.mark.parametrize("name", MIXED)
def test_the_pretended_device_refuses_what_torch_refuses(name):
    mix, expected = MIXED[name]

    def refused(make):
        try:
            mix(*make())
        except RuntimeError as error:
            return None if "not linked" in str(error) else "device" in str(error)
        return False

    with FakeTensorMode():
        by_torch = refused(lambda: (torch.ones(2, 2), torch.ones(2, 2, device="cuda")))
    with PretendedDevice("cuda") as pretended:
        by_us = refused(lambda: (torch.ones(2, 2), torch.ones(2, 2, device=pretended.device)))
    assert by_us is expected
    # Some it cannot try where torch is built without CUDA, and a real GPU's indices it lets pass.
    assert by_torch in (expected, None) or name == "index of the device"


def test_a_device_without_float64_hands_over_to_the_cpu():
    assert float64_device("cuda:1") == torch.device("cuda:1")
    with PretendedDevice("mps") as pretended:
        assert float64_device(pretended.device) == CPU
        with pytest.raises(TypeError, match="float64"):
            pretended.put(torch.ones(2)).double()
