import contextlib
import random
import re
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from tally import Tally
from torch import nn

import interaction_monitor.forward as engine
from interaction_monitor.forward import assign_players, masked_outputs
from interaction_monitor.forward.preflight import same
from interaction_monitor.outputs import log_odds
from interaction_monitor.players import FeaturePatches, ImagePatches, PlayerMap
from interaction_monitor.probe import Probe

N = 4
CLASSES = 3

needs_stance = pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="needs torch 2.6")


class Residual(nn.Module):
    """A residual network with all that tells eval mode from train mode."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.act = nn.ReLU()
        self.branch = nn.Conv2d(6, 6, 3, padding=1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6 * 64, CLASSES)

    def forward(self, x, edit=None):
        h = self.act(self.norm(self.stem(x)))
        if edit and edit[0] == "act":
            h = edit[1](h)
        b = self.branch(h)
        if edit and edit[0] == "branch":
            b = edit[1](b)
        return self.head(self.drop((h + b).flatten(1)))


class Changed(Residual):
    """Ways to use a network's parts that do not allow to spread one sample in the middle of the forward."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        if kind == "concatenated":
            self.head = nn.Linear(2 * 6 * 64, CLASSES)

    def forward(self, x, edit=None):
        h = self.act(self.norm(self.stem(x)))
        b = self.branch(h)
        if edit:
            b = edit[1](b)
        if self.kind == "concatenated":
            return self.head(torch.cat([h, b], dim=1).flatten(1))
        if self.kind == "batch size kept":
            return self.head(b.view(len(x), -1))
        if self.kind == "mean over the rest":
            # Runs on any batch, with a wrong result: the coalitions end up in the mean.
            rest = b.reshape(len(x), 6, -1, 64).mean(2)
            return self.head(rest.flatten(1)).expand(len(b), -1)
        raise AssertionError(self.kind)


@pytest.fixture
def probe():
    torch.manual_seed(1)
    return Probe(torch.randn(3, 1, 8, 8), torch.tensor([0, 2, 1]))


@pytest.fixture
def model():
    torch.manual_seed(0)
    net = Residual()
    with torch.no_grad():
        net(torch.randn(16, 1, 8, 8))  # fills the running statistics
    return net


def by_hand(model, probe, players, layer=None, output=log_odds):
    """One full forward for each coalition, with its cells set one by one."""
    model.eval()
    v = torch.empty(len(probe), 1 << players.n_players, dtype=torch.float64)
    for sample in range(len(probe)):
        for coalition in range(1 << players.n_players):
            absent = [i for i in range(players.n_players) if not coalition >> i & 1]

            def edit(x, absent=absent, sample=sample):
                x = x.clone()
                for player in absent:
                    rows, columns = (players.labels[sample] == player).nonzero(as_tuple=True)
                    x[:, :, rows, columns] = players.baseline
                return x

            with torch.no_grad():
                x = probe.inputs_of(sample)
                logits = model(x, edit=(layer, edit)) if layer else model(edit(x))
                v[sample, coalition] = output(logits, probe.target_of(sample))
    model.train()
    return v


def assert_close(v, expected):
    torch.testing.assert_close(v, expected, rtol=0, atol=2e-6)
    # Masking did something, else the comparison says nothing.
    assert (expected.std(dim=1) > 1e-3).all()


def state_of(model):
    return (
        [module.training for module in model.modules()],
        {name: value.clone() for name, value in model.state_dict().items()},
        [len(module._forward_hooks) for module in model.modules()],
        torch.get_rng_state(),
        np.random.get_state()[1].copy(),
        random.getstate(),
        torch.is_grad_enabled(),
    )


def assert_same_state(before, after):
    assert before[0] == after[0]
    assert all(torch.equal(before[1][name], after[1][name]) for name in before[1])
    assert before[2] == after[2]
    assert torch.equal(before[3], after[3])
    assert np.array_equal(before[4], after[4])
    assert before[5:] == after[5:]


@pytest.mark.parametrize("baseline", [0.0, -1.5])
@pytest.mark.parametrize("layer", ["act", "branch"])
def test_masking_inside_equals_full_forwards_by_hand(model, probe, layer, baseline):
    drawn = assign_players(model, FeaturePatches(layer, n_players=N, baseline=baseline), probe)
    assert_close(masked_outputs(model, probe, drawn), by_hand(model, probe, drawn, layer))


@pytest.mark.parametrize("baseline", [0.0, 2.0])
def test_masking_the_input_equals_full_forwards_by_hand(model, probe, baseline):
    drawn = assign_players(model, ImagePatches(n_players=N, baseline=baseline), probe)
    assert_close(masked_outputs(model, probe, drawn), by_hand(model, probe, drawn))


@pytest.mark.parametrize("kind", ["concatenated", "batch size kept", "mean over the rest"])
def test_models_that_cannot_be_spread_get_full_forwards(probe, kind):
    torch.manual_seed(0)
    model = Changed(kind)
    drawn = assign_players(model, FeaturePatches("branch", n_players=N), probe)
    assert_close(masked_outputs(model, probe, drawn), by_hand(model, probe, drawn, "branch"))


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_wrong_spread_is_found_at_any_scale(probe, scale):
    torch.manual_seed(0)
    model = Changed("mean over the rest")
    with torch.no_grad():
        model.head.weight *= scale
        model.head.bias *= scale
    drawn = assign_players(model, FeaturePatches("branch", n_players=N), probe)
    expected = by_hand(model, probe, drawn, "branch")
    torch.testing.assert_close(masked_outputs(model, probe, drawn), expected, rtol=0, atol=2e-6 * scale)


def test_rounding_is_told_from_a_wrong_spread():
    reference = torch.tensor([[100.0, 0.0], [100.5, 0.0]])
    assert not same(reference + 0.2, reference, epsilon=0.0)
    assert same(reference + 0.2, reference, epsilon=2**-8)  # bfloat16: 100.0 and 100.5 are neighbours
    assert not same(reference + 20, reference, epsilon=2**-8)
    assert not same(reference[:1], reference, epsilon=2**-8)


def test_rounding_under_autocast_is_no_reason_for_full_forwards(model, probe, after_trial):
    drawn = assign_players(model, FeaturePatches("branch", n_players=N), probe)
    batches = after_trial(model.stem)
    context = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    masked_outputs(model, probe, drawn, forward_context=context, chunk_size=16)
    assert batches == [1, 1, 1]


@pytest.fixture
def after_trial(monkeypatch):
    """Watch the batch sizes of a layer, once it is found out how the model may be run."""
    watched = []

    def watch(layer):
        sizes = Tally()
        watched.append(sizes)
        # Deeper than its forward, which is not called where the layer gives its output again.
        name = "_conv_forward" if isinstance(layer, nn.Conv2d) else "forward"
        inner = getattr(layer, name)
        monkeypatch.setattr(layer, name, lambda x, *args: (sizes.append(len(x)), inner(x, *args))[1])
        return sizes

    def tried(*args, inner=engine.try_out):
        result = inner(*args)
        for sizes in watched:
            sizes.clear()
        return result

    monkeypatch.setattr(engine, "try_out", tried)
    return watch


@pytest.mark.parametrize("chunk_size", [4, 16])
@pytest.mark.parametrize("kind", [None, "concatenated"])
def test_the_layers_before_run_once_per_sample(model, probe, after_trial, kind, chunk_size):
    if kind:
        model = Changed(kind)
    drawn = assign_players(model, FeaturePatches("branch", n_players=N), probe)
    stem, head = after_trial(model.stem), after_trial(model.head)
    v = masked_outputs(model, probe, drawn, chunk_size=chunk_size)
    # The trial may have done the first sample.
    assert stem in ([1, 1], [1, 1, 1])
    assert [size for size in head if size > 1] == [chunk_size] * (48 // chunk_size)
    assert_close(v, by_hand(model, probe, drawn, "branch"))


@pytest.mark.parametrize("chunk_size", [1, 3, 5, 16, 17, 48, 1000])
@pytest.mark.parametrize(
    "players", [ImagePatches(n_players=N), FeaturePatches("branch", n_players=N), FeaturePatches("act", n_players=N)]
)
def test_no_chunk_is_larger_than_asked_and_none_changes_the_result(model, probe, after_trial, players, chunk_size):
    drawn = assign_players(model, players, probe)
    whole = masked_outputs(model, probe, drawn)
    sizes = after_trial(model.head)
    torch.testing.assert_close(masked_outputs(model, probe, drawn, chunk_size=chunk_size), whole, rtol=0, atol=2e-6)
    if drawn.layer == "branch" and chunk_size >= 32:
        # Unmasked, to note what bypasses the layer.
        sizes = [size for size in sizes if size > 3]
    assert max(sizes) <= chunk_size
    assert sum(sizes) == 3 << N


@pytest.mark.parametrize(
    "players", [ImagePatches(n_players=N), FeaturePatches("act", n_players=N), FeaturePatches("branch", n_players=N)]
)
def test_several_samples_share_a_chunk(model, probe, after_trial, players):
    drawn = assign_players(model, players, probe)
    sizes = after_trial(model.head)
    v = masked_outputs(model, probe, drawn, chunk_size=40)
    assert [size for size in sizes if size > 2] == [32, 16]
    assert_close(v, by_hand(model, probe, drawn, drawn.layer))


def test_many_players_take_memory_for_one_chunk_only(probe):
    seen = Tally()

    class Counting(nn.Module):
        def forward(self, x):
            seen.append(x.numel())
            return x.flatten(1)[:, :3]

    drawn = assign_players(Counting(), ImagePatches(n_players=12), probe)
    assert masked_outputs(Counting(), probe, drawn, chunk_size=64).shape == (3, 4096)
    assert max(seen) == 64 * 64


def test_a_nan_in_a_masked_cell_does_not_leak(model, probe):
    drawn = assign_players(model, ImagePatches(n_players=N), probe)
    rows, columns = (drawn.labels[1] == 2).nonzero(as_tuple=True)
    inputs = probe.inputs.clone()
    inputs[1, :, rows, columns] = torch.nan
    v = masked_outputs(model, Probe(inputs, probe.targets), drawn)
    present = torch.arange(16) >> 2 & 1 == 1
    assert v[1, present].isnan().all()
    torch.testing.assert_close(v[1, ~present], masked_outputs(model, probe, drawn)[1, ~present], rtol=0, atol=2e-6)
    assert v[[0, 2]].isfinite().all()


def test_everything_is_left_as_it_was(model, probe):
    model.norm.eval()  # partly frozen
    before = state_of(model)
    for players in (ImagePatches(n_players=N), FeaturePatches("act", n_players=N)):
        masked_outputs(model, probe, assign_players(model, players, probe))
    assert_same_state(before, state_of(model))
    assert all(parameter.grad is None for parameter in model.parameters())


class Restless(nn.Module):
    """Draws random numbers, counts its calls, writes to its buffers in eval mode, and may fail."""

    def __init__(self, error=None, after=0):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 1)
        self.error, self.after, self.calls, self.log, self.run = error, after, 0, [], Tally()
        self.register_buffer("in_place", torch.zeros(2))
        self.register_buffer("replaced", torch.zeros(2))

    def forward(self, x):
        self.calls += 1
        self.log.append(len(x))
        self.run.append(len(x))
        self.in_place += 1
        self.replaced = self.replaced + 1
        torch.rand(2), np.random.rand(), random.random()
        h = self.conv(x).mean((2, 3))
        if self.error and len(self.run) > self.after:
            raise self.error
        return h


@pytest.mark.parametrize(
    "error", [None, RuntimeError("broken"), KeyboardInterrupt(), torch.cuda.OutOfMemoryError("gone")]
)
@pytest.mark.parametrize("players", [ImagePatches(n_players=2), FeaturePatches("conv", n_players=2)])
def test_everything_is_left_as_it_was_after_an_exception(probe, players, error):
    model = Restless()
    drawn = assign_players(model, players, probe)
    model.error, model.calls, model.log, model.after = error, 7, [3], 4
    model.run.clear()
    buffers = dict(model.named_buffers())
    before = state_of(model)
    with pytest.raises(type(error)) if error else contextlib.nullcontext():
        masked_outputs(model, probe, drawn, chunk_size=2)
    assert len(model.run) > 4
    assert model.log == [3]
    assert model.calls == 7
    assert_same_state(before, state_of(model))
    assert all(buffers[name] is buffer for name, buffer in model.named_buffers())


def test_a_failing_dry_run_leaves_everything_as_it_was(probe):
    model = Restless(error=RuntimeError("broken"))
    before = state_of(model)
    with pytest.raises(RuntimeError, match="broken"):
        assign_players(model, FeaturePatches("conv", n_players=2), probe)
    assert_same_state(before, state_of(model))


@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError, RuntimeError, MemoryError])
@pytest.mark.parametrize("players", [ImagePatches(n_players=N), FeaturePatches("branch", n_players=N)])
def test_chunks_are_halved_when_memory_runs_out(model, probe, players, error, caplog):
    drawn = assign_players(model, players, probe)
    expected = masked_outputs(model, probe, drawn)

    def limited(module, args):
        if len(args[0]) > 5:
            raise error("CUDA out of memory")

    model.head.register_forward_pre_hook(limited)
    torch.testing.assert_close(masked_outputs(model, probe, drawn), expected, rtol=0, atol=2e-6)
    # From all 48 down to at most 5, by powers of two, once.
    sizes = [48, 32, 16, 8, 4]
    warned = [record.args[0] for record in caplog.records if "out of memory" in record.msg]
    assert warned == sizes[1:]


def test_memory_that_does_not_even_suffice_for_one_is_an_error(model, probe):
    drawn = assign_players(model, ImagePatches(n_players=N), probe)

    def limited(module, args):
        if len(args[0]) > 1 or len(calls):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        calls.append(1)

    calls = Tally()
    model.head.register_forward_pre_hook(limited)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        masked_outputs(model, probe, drawn)


def test_the_output_may_be_named_or_given(model, probe):
    drawn = assign_players(model, ImagePatches(n_players=2), probe)
    for output, function in (
        ("loss", engine.resolve("loss")),
        (lambda z, y: z[:, 1], lambda z, y: z[:, 1].double()),
    ):
        v = masked_outputs(model, probe, drawn, output=output)
        assert v.dtype == torch.float64
        assert_close(v, by_hand(model, probe, drawn, output=function))


def test_an_output_without_targets_needs_none(model, probe):
    bare = Probe(probe.inputs)
    drawn = assign_players(model, ImagePatches(n_players=2), bare)
    assert masked_outputs(model, bare, drawn, output=lambda z, y: z[:, 0]).shape == (3, 4)
    with pytest.raises(ValueError, match="the probe has no targets"):
        masked_outputs(model, bare, drawn)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda z: (z, "extra"),
        lambda z: [z, None],
        lambda z: {"loss": z.sum(), "logits": z},
        lambda z: type("ModelOutput", (), {"logits": z})(),
    ],
)
def test_logits_are_found_in_what_the_model_returns(model, probe, wrap):
    drawn = assign_players(model, ImagePatches(n_players=2), probe)
    v = masked_outputs(model, probe, drawn, forward_func=lambda net, x: wrap(net(x)))
    assert torch.equal(v, masked_outputs(model, probe, drawn))


@pytest.mark.parametrize(
    ("wrap", "error", "message"),
    [
        (lambda z: {"scores": z}, TypeError, r"got dict with 'scores'\. Give forward_func=.*module\(x\)\['scores'\]"),
        (lambda z: "text", TypeError, "got str: text"),
        (lambda z: (), TypeError, "got tuple of 0"),
        (lambda z: (None, z), TypeError, "got tuple of 2: NoneType"),
        (lambda z: z.sum(), ValueError, "for a batch of 1 it returned a tensor of shape \\(\\)"),
        (lambda z: z.T, ValueError, "for a batch of 1 it returned a tensor of shape \\(3, 1\\)"),
        (lambda z: z[:, :, None], ValueError, "got \\(3, 3, 1\\)"),
        (lambda z: z[:, :2], ValueError, "labels out of range: targets go from 0 to 2"),
    ],
)
def test_what_is_no_logits_is_shown(model, probe, wrap, error, message):
    drawn = assign_players(model, ImagePatches(n_players=2), probe)
    with pytest.raises(error, match=message):
        masked_outputs(model, probe, drawn, forward_func=lambda net, x: wrap(net(x)))


@pytest.mark.parametrize("output", [lambda z, y: z, lambda z, y: z.sum(), lambda z, y: 1.0])
def test_outputs_of_a_wrong_shape_are_refused(model, probe, output):
    drawn = assign_players(model, ImagePatches(n_players=2), probe)
    with pytest.raises(ValueError, match=r"output= must return one number per row, shape \(1,\)"):
        masked_outputs(model, probe, drawn, output=output)


def test_the_first_of_a_tuple_is_masked(probe):
    class Pair(nn.Module):
        def forward(self, x):
            return x * 2, "kept"

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.pair, self.head = Pair(), nn.Linear(64, CLASSES)

        def forward(self, x):
            h, kept = self.pair(x)
            assert kept == "kept"
            return self.head(h.flatten(1))

    torch.manual_seed(0)
    net = Net()
    inside = assign_players(net, FeaturePatches("pair", n_players=N), probe)
    outside = assign_players(net, ImagePatches(n_players=N), probe)
    assert_close(masked_outputs(net, probe, inside), masked_outputs(net, probe, outside))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("features.l", "has no layer of that name; did you mean 'features.1'"),
        ("1", "did you mean 'features.1'"),
        ("xyz", "it has 'features', 'features.0', 'features.1'"),
        ("", "has no layer"),
        ("unused", "is not called when the model runs"),
        ("twice", "is called more than once in one forward"),
        ("dead", "the logits do not depend on the output of layer='dead'"),
        ("text", "must output a tensor or a tuple that begins with one, got str: hello"),
    ],
)
def test_layers_that_cannot_be_masked_are_named(probe, name, message):
    class Says(nn.Module):
        def forward(self, x):
            return "hello"

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU())
            self.unused, self.twice, self.dead, self.text = nn.ReLU(), nn.ReLU(), nn.ReLU(), Says()
            self.head = nn.Linear(128, CLASSES)

        def forward(self, x):
            h = self.features(x)
            self.dead(h), self.text(h)
            return self.head(self.twice(self.twice(h)).flatten(1))

    net = Net()
    with pytest.raises((ValueError, TypeError), match=message):
        masked_outputs(net, probe, assign_players(net, FeaturePatches(name, n_players=2), probe))
    assert not any(module._forward_hooks for module in net.modules())


def test_sizes_that_do_not_fit_are_refused(model, probe):
    drawn = assign_players(model, ImagePatches(n_players=N), probe)
    with pytest.raises(ValueError, match="drawn for 2 samples, but the probe has 3"):
        masked_outputs(model, probe, drawn.select([0, 1]))
    for chunk_size in (0, 1.5, True):
        with pytest.raises(ValueError, match=rf"chunk_size={chunk_size} must be a whole number"):
            masked_outputs(model, probe, drawn, chunk_size=chunk_size)
    message = r"n_players=4 means 3 x 2\^4 = 48 masked forwards, .* max_forwards=40. Take at most 3 players"
    with pytest.raises(ValueError, match=message):
        masked_outputs(model, probe, drawn, max_forwards=40)
    with pytest.raises(ValueError, match="drawn for"):
        masked_outputs(model, Probe(torch.rand(3, 1, 9, 9), probe.targets), drawn)
    huge = PlayerMap(torch.arange(60).repeat(3, 1)[:, None], 60, (2, 3))
    with pytest.raises(ValueError, match=r"27,670,116,110.6 GB"):
        masked_outputs(model, probe, huge)


def test_samples_without_all_their_players_are_nan(model, probe):
    drawn = assign_players(model, ImagePatches(n_players=N), probe)
    labels = drawn.labels.clone()
    labels[1][labels[1] == 2] = -1
    v = masked_outputs(model, probe, PlayerMap(labels, N, (2, 3)))
    assert v[1].isnan().all()
    torch.testing.assert_close(v[[0, 2]], masked_outputs(model, probe, drawn)[[0, 2]], rtol=0, atol=2e-6)
    labels[labels == 2] = -1
    assert masked_outputs(model, probe, PlayerMap(labels, N, (2, 3))).isnan().all()


def test_callable_baselines_see_the_maps_of_all_samples(model, probe):
    players = FeaturePatches("act", n_players=2, baseline=lambda maps: maps.mean((2, 3), keepdim=True))
    drawn = assign_players(model, players, probe)
    model.eval()
    with torch.no_grad():
        expected = model.act(model.norm(model.stem(probe.inputs))).mean((2, 3), keepdim=True)
    torch.testing.assert_close(drawn.baseline, expected)


def test_the_context_surrounds_each_forward(model, probe):
    drawn = assign_players(model, FeaturePatches("act", n_players=N), probe)
    autocast = masked_outputs(
        model, probe, drawn, forward_context=lambda: torch.autocast("cpu", dtype=torch.bfloat16), chunk_size=8
    )
    exact = masked_outputs(model, probe, drawn)
    assert autocast.dtype == torch.float64
    assert not torch.equal(autocast, exact)
    torch.testing.assert_close(autocast, exact, rtol=0, atol=0.1)


def test_dicts_of_inputs_are_masked_at_one_entry(probe):
    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(1, 2, 1)
            self.head = nn.Linear(128, CLASSES)

        def forward(self, image, weight):
            return self.head(self.stem(image).flatten(1)) * weight[:, None]

    torch.manual_seed(0)
    net = Weighted()
    weights = torch.tensor([1.0, 2.0, -3.0])
    both = Probe({"image": probe.inputs, "weight": weights}, probe.targets)
    for players in (ImagePatches(n_players=N, input_key="image"), FeaturePatches("stem", n_players=N)):
        drawn = assign_players(net, players, both)
        alone = [
            masked_outputs(
                net,
                both.select([i]),
                drawn.select([i]),
                forward_func=lambda m, x, i=i: m(x["image"], weights[i].expand(len(x["image"]))),
            )
            for i in range(3)
        ]
        assert_close(masked_outputs(net, both, drawn, chunk_size=7), torch.cat(alone))


def test_a_model_without_parameters_runs_where_the_probe_is(probe):
    net = nn.Sequential(nn.AvgPool2d(2), nn.Flatten())
    drawn = assign_players(net, ImagePatches(n_players=2), probe)
    assert masked_outputs(net, probe, drawn).isfinite().all()


class Unsteady(nn.Module):
    """Outputs that depend on more than the input."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6, track_running_stats=kind != "no running statistics")
        self.head = nn.Linear(6 * 64, CLASSES)

    def forward(self, x):
        h = self.norm(self.conv(x)).relu().flatten(1)
        return self.head(nn.functional.dropout(h) if self.kind == "dropout" else h)


def warned_of(model, probe, players, **options):
    drawn = assign_players(model, players, probe)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        masked_outputs(model, probe, drawn, **options)
    assert all(warning.filename == __file__ for warning in caught)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("players", [ImagePatches(n_players=N), FeaturePatches("conv", n_players=N)])
@pytest.mark.parametrize("options", [{}, {"chunk_size": 2}, {"n": 1}], ids=str)
def test_outputs_that_depend_on_chance_or_on_the_batch_are_warned_of(probe, players, options):
    options = dict(options)
    probe = probe.select(range(options.pop("n", 3)))
    torch.manual_seed(0)
    (message,) = warned_of(Unsteady("dropout"), probe, players, **options)
    assert re.search(r"different outputs for the same input.*torch.nn.functional.dropout", message)
    (message,) = warned_of(Unsteady("no running statistics"), probe, players, **options)
    assert re.search("depend on the other inputs in its batch.*chunk_size", message)
    bfloat16 = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    for fine in (Unsteady("neither"), Unsteady("neither").double()):
        for context in (contextlib.nullcontext, bfloat16):
            given = Probe(probe.inputs.to(next(fine.parameters()).dtype), probe.targets)
            assert not warned_of(fine, given, players, forward_context=context, **options)


@pytest.mark.parametrize("players", [ImagePatches(n_players=N), FeaturePatches("conv", n_players=N)])
def test_masking_in_vain_is_warned_of(probe, players):
    model = Unsteady("neither")
    assert not warned_of(model, probe, players)
    nn.init.zeros_(model.head.weight)
    (message,) = warned_of(model, probe, players)
    assert re.search("masking changes no output of any sample.*layer=, baseline= and output=", message)
    with torch.no_grad():
        model.head.weight[0, 9] = 1e-3  # a little is not nothing
        model.conv.weight.mul_(10)
    assert not warned_of(model, probe, replace(players, margin=0, grid=2))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("convert", [torch.jit.script, lambda net: torch.jit.trace(net, torch.randn(2, 1, 8, 8))])
def test_scripted_models_are_masked_at_the_input(probe, convert):
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(256, 3)
    ).eval()
    drawn = assign_players(net, ImagePatches(n_players=N), probe)
    scripted = convert(net)
    before = state_of(scripted)
    assert_close(masked_outputs(scripted, probe, drawn), masked_outputs(net, probe, drawn))
    assert_same_state(before, state_of(scripted))
    inside = assign_players(net, FeaturePatches("1", n_players=N), probe)
    for call in (
        lambda: masked_outputs(scripted, probe, inside),
        lambda: assign_players(scripted, FeaturePatches("1", n_players=N), probe),
    ):
        with pytest.raises(ValueError, match=r"layer='1' is part of a scripted.*no hooks.*eager model, or players of"):
            call()


@needs_stance
def test_compiled_models_are_masked_inside_too(model, probe):
    compiled = torch.compile(model, backend="eager")
    compiled(probe.inputs)
    before = state_of(model)
    drawn = assign_players(model, FeaturePatches("act", n_players=N), probe)
    expected = masked_outputs(model, probe, drawn)
    assert torch.equal(assign_players(compiled, FeaturePatches("act", n_players=N), probe).labels, drawn.labels)
    torch.testing.assert_close(masked_outputs(compiled, probe, drawn), expected, rtol=0, atol=2e-6)
    assert_same_state(before, state_of(model))


@needs_stance
def test_compiled_models_are_not_compiled_again_for_each_measurement(model, probe):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    compiled = torch.compile(model, backend=backend)
    drawn = assign_players(compiled, ImagePatches(n_players=N), probe)
    first = masked_outputs(compiled, probe, drawn, chunk_size=32)
    torch.testing.assert_close(first, masked_outputs(model, probe, drawn), rtol=0, atol=2e-6)
    count = len(graphs)
    assert count > 0
    sizes = []

    def watched(net, x):
        sizes.append(len(x))
        return net(x)

    masked_outputs(compiled, probe, drawn, chunk_size=32, forward_func=watched)
    assert sizes == [1, 1, 4, 32, 32]  # after the trial 48 rows, the last chunk filled up
    assert len(graphs) == count
    inside = assign_players(compiled, FeaturePatches("act", n_players=N), probe)
    masked_outputs(compiled, probe, inside)
    assert len(graphs) == count


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("players", [ImagePatches(n_players=N), FeaturePatches("branch", n_players=N)])
def test_a_gpu_gives_the_same_and_keeps_its_random_state(model, probe, players):
    drawn = assign_players(model, players, probe)
    expected = masked_outputs(model, probe, drawn)
    model.cuda()
    before = torch.cuda.get_rng_state()
    found = masked_outputs(model, probe, drawn, chunk_size=7)
    assert found.device.type == "cuda"
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-3, atol=1e-3)
    assert torch.equal(torch.cuda.get_rng_state(), before)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("players", [ImagePatches(n_players=N), FeaturePatches("branch", n_players=N)])
def test_the_loop_does_not_wait_for_the_gpu(model, probe, players, monkeypatch):
    drawn = assign_players(model, players, probe)
    inner = engine._fill

    def watched(*args):
        torch.cuda.set_sync_debug_mode("error")
        try:
            inner(*args)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(engine, "_fill", watched)
    assert masked_outputs(model.cuda(), probe, drawn, chunk_size=5).isfinite().all()
