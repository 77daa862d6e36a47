"""How the forward engine runs: what it holds in memory, packs, writes in place, leaves out, compiles and waits for."""

import copy
import weakref
from collections import Counter
from functools import partial

import pytest
import torch
import torch._dynamo.testing
import transformers
from hypothesis import given
from hypothesis import strategies as st
from tally import Tally
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import interaction_monitor.forward as engine
from interaction_monitor.forward import assign_players, chunks, masked_outputs
from interaction_monitor.forward.chunks import Chunk, LiveBytes, MaskedRows, next_chunk
from interaction_monitor.language_models import last_token_logits, most_probable
from interaction_monitor.players import FeaturePatches, ImagePatches, PlayerMap, Words
from interaction_monitor.probe import Probe

needs_stance = pytest.mark.skipif(not hasattr(torch.compiler, "set_stance"), reason="needs torch 2.6")


def network(*, inplace=False):
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(inplace)),
        *(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(64, 3)),
    )


@pytest.fixture
def probe():
    torch.manual_seed(1)
    return Probe(torch.randn(5, 1, 8, 8), torch.arange(5) % 3)


def plainly(model, probe, players, **options):
    """One full forward for each coalition, masked by `torch.where`, in one batch per sample."""
    model.eval()
    rows = []
    for sample in range(len(probe)):
        coalitions = torch.arange(1 << players.n_players)
        x = probe.inputs_of(sample)
        with torch.no_grad():
            if players.layer is None:
                logits = model(players.mask(x, sample, coalitions))
            else:
                layer = int(players.layer)
                logits = model[layer + 1 :](players.mask(model[: layer + 1](x), sample, coalitions))
        z, y = logits.double(), int(probe.target_of(sample))
        others = torch.arange(z.shape[1]) != y
        rows.append(z[:, y] - z[:, others].logsumexp(1))
    model.train()
    return torch.stack(rows)


def all_chunks(n_samples, n_coalitions, size, *, packed):
    start = 0
    while start < n_samples * n_coalitions:
        yield (chunk := next_chunk(start, n_samples, n_coalitions, size, packed=packed))
        start += len(chunk)


@given(st.integers(1, 9), st.integers(0, 4), st.integers(0, 7), st.booleans())
def test_chunks_hold_every_row_once_and_in_order(n_samples, n_players, power, packed):
    n_coalitions = 1 << n_players
    found = list(all_chunks(n_samples, n_coalitions, 1 << power, packed=packed))
    rows = [(sample, coalition) for chunk in found for sample in chunk.samples for coalition in chunk.coalitions]
    assert rows == [(sample, coalition) for sample in range(n_samples) for coalition in range(n_coalitions)]
    for chunk in found:
        assert len(chunk) <= 1 << power
        assert chunk.coalitions.start % len(chunk.coalitions) == 0
        assert packed or len(chunk.samples) == 1


LAYOUTS = {
    "image": ((2, 3, 6, 6), (2, 3), torch.contiguous_format),
    "channels last": ((2, 3, 6, 6), (2, 3), torch.channels_last),
    "rows and channels": ((2, 3, 6, 6), (1, 2), torch.channels_last),
    "words": ((2, 6, 5), (1,), torch.contiguous_format),
    "ids": ((2, 6), (1,), torch.contiguous_format),
    "far apart": ((2, 4, 3, 4), (1, 3), torch.contiguous_format),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("baseline", ["number", "one", "each"])
@pytest.mark.parametrize("rows", [1, 4, 16, 32])
def test_rows_written_in_place_are_those_that_are_selected(layout, baseline, rows):
    shape, axes, memory_format = LAYOUTS[layout]
    torch.manual_seed(0)
    labels = torch.randint(-1, 4, (2, *(shape[axis] for axis in axes)))
    labels.flatten(1)[:, :4] = torch.arange(4)
    x = torch.randint(0, 99, shape) if layout == "ids" else torch.randn(shape).to(memory_format=memory_format)
    values = {"number": 7, "one": x[:1] + 1, "each": x * 2}
    players = PlayerMap(labels, 4, axes, values[baseline])
    engine = MaskedRows(players)
    for chunk in all_chunks(2, 16, rows, packed=True):
        samples = x[chunk.samples.start : chunk.samples.stop]
        found = engine.rows(samples, chunk)
        each = [players.mask(x[s : s + 1], s, torch.tensor(list(chunk.coalitions))) for s in chunk.samples]
        assert torch.equal(found, torch.cat(each))


def test_a_buffer_that_was_changed_is_written_anew():
    players = PlayerMap(torch.arange(4)[None], 4, (1,), -1.0)
    engine = MaskedRows(players)
    x = torch.tensor([[5.0, 6.0, 7.0, torch.nan]])
    halves = [Chunk(range(1), range(8)), Chunk(range(1), range(8, 16))]
    for chunk in halves * 2:
        found = engine.rows(x, chunk)
        torch.testing.assert_close(
            found, players.mask(x, 0, chunk.coalitions_on(x.device)), equal_nan=True, rtol=0, atol=0
        )
        found.mul_(2)
    # Another sample of the same number, as a model gives that draws at random.
    first = engine.rows(torch.ones(1, 4), halves[0])
    assert first.max() == 1
    assert torch.equal(engine.rows(torch.zeros(1, 4), halves[1])[-1], torch.zeros(4))


@pytest.mark.parametrize("layer", [None, "0", "1", "3"])
@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("chunk_size", [None, 4, 64])
def test_every_way_to_run_gives_what_plain_forwards_give(probe, layer, inplace, chunk_size):
    model = network(inplace=inplace)
    kind = FeaturePatches(layer, n_players=4) if layer else ImagePatches(n_players=4)
    drawn = assign_players(model, kind, probe)
    expected = plainly(model, probe, drawn)
    assert (expected.std(dim=1) > 1e-4).all()
    for _ in range(2):
        found = masked_outputs(model, probe, drawn, chunk_size=chunk_size)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("players", [ImagePatches(n_players=4), FeaturePatches("1", n_players=4)])
def test_channels_last_gives_the_same(probe, players):
    model = network()
    drawn = assign_players(model, players, probe)
    expected = masked_outputs(model, probe, drawn)
    model.to(memory_format=torch.channels_last)
    last = Probe(probe.inputs.to(memory_format=torch.channels_last), probe.targets)
    seen = Tally()
    model[2].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    for chunk_size in (None, 4):
        found = masked_outputs(model, last, drawn, chunk_size=chunk_size)
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    assert seen[-1].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("players", [ImagePatches(n_players=4), FeaturePatches("1", n_players=4)])
def test_chunks_and_packing_change_bfloat16_by_its_rounding_only(probe, players):
    model = network()
    drawn = assign_players(model, players, probe)
    context = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
    exact = masked_outputs(model, probe, drawn)
    coarse = masked_outputs(model, probe, drawn, forward_context=context)
    scale = exact.abs().max()
    assert 0 < (coarse - exact).abs().max() < 4 * 2**-8 * scale
    for chunk_size in (2, 16, 64):
        found = masked_outputs(model, probe, drawn, forward_context=context, chunk_size=chunk_size)
        assert (found - coarse).abs().max() < 2 * 2**-8 * scale


class Branching(nn.Module):
    """Bypasses its branch, and needs its whole batch before it: only modules that give again allow to leave any out."""

    def __init__(self, *, noisy=False):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.branch = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(512, 3)
        self.noisy = noisy

    def forward(self, x):
        h = self.stem(x)
        h += 1  # in place, after a module that gives again
        b = self.branch(h).view(len(x), 4, 64)
        return self.head(torch.cat([h.flatten(2), b], dim=1).flatten(1))


@pytest.mark.parametrize("chunk_size", [None, 4, 16, 64])
def test_modules_before_the_layer_give_their_outputs_again(probe, chunk_size, monkeypatch):
    model = Branching()
    drawn = assign_players(model, FeaturePatches("branch", n_players=4), probe)
    monkeypatch.setattr(
        engine, "try_out", lambda runner, score, size: engine.Runner.call(runner, probe.inputs_of(0), 1)
    )
    expected = masked_outputs(model, probe, drawn, chunk_size=chunk_size)  # full forwards, without a trial
    monkeypatch.undo()
    rows = Tally()
    inner = model.stem._conv_forward
    monkeypatch.setattr(model.stem, "_conv_forward", lambda x, *args: (rows.append(len(x)), inner(x, *args))[1])
    found = masked_outputs(model, probe, drawn, chunk_size=chunk_size)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    assert expected.std(dim=1).min() > 1e-3
    assert sum(rows) < 5 * 16
    assert all("forward" not in module.__dict__ for module in model.modules())


def test_a_forward_of_the_users_own_is_put_back_after_an_exception(probe):
    model = network()
    own = model[0].forward
    model[0].forward = own
    drawn = assign_players(model, FeaturePatches("1", n_players=4), probe)
    calls = Tally()

    def fail(module, args):
        calls.append(len(args[0]))
        if len(calls) > 12:
            raise KeyError("late")

    model[6].register_forward_pre_hook(fail)
    with pytest.raises(KeyError, match="late"):
        masked_outputs(model, probe, drawn, chunk_size=4)
    assert model[0].__dict__["forward"] is own
    assert "forward" not in model[1].__dict__


@pytest.mark.parametrize("layer", [None, "1", "branch"])
def test_memory_is_bounded_by_the_chunk(probe, layer, monkeypatch):
    monkeypatch.setattr(engine, "COLLECTED_BYTES", 2**12)
    model = Branching() if layer == "branch" else network()
    peaks, outputs = {}, {}
    for n_players in (6, 10):
        kind = FeaturePatches(layer, n_players=n_players) if layer else ImagePatches(grid=8, n_players=n_players)
        drawn = assign_players(model, kind, probe)
        with LiveBytes() as counted:
            v = masked_outputs(model, probe, drawn, chunk_size=32)
        peaks[n_players], outputs[n_players] = counted.peak, v.nbytes
        # A chunk of the widest rows, or the outputs.
        assert counted.largest <= max(32 * 512 * 4, v.nbytes)
    # The outputs are there twice, with and without samples that miss players; nothing else grows.
    assert peaks[10] - peaks[6] < 2 * (outputs[10] - outputs[6]) + 2**14
    assert peaks[10] < 2**10 * 512 * 4 / 2


def test_a_vocabulary_is_formed_at_one_position_only(monkeypatch):
    monkeypatch.setattr(engine, "COLLECTED_BYTES", 2**12)
    n_words, length, rows = 4000, 24, 8
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=n_words, hidden_size=8, num_hidden_layers=2, num_attention_heads=1, intermediate_size=8
    )
    model = transformers.LlamaForCausalLM(config)
    probe = most_probable(model, Probe({"input_ids": torch.randint(2, n_words, (2, length))}))
    for layer in (None, "model.layers.0"):
        words = Words([f"word{i}" for i in range(n_words)], n_players=5, layer=layer, baseline=0 if layer else 1)
        drawn = assign_players(model, words, probe, forward_func=last_token_logits)
        with LiveBytes() as counted:
            masked_outputs(
                model, probe, drawn, output="next_token_log_odds", forward_func=last_token_logits, chunk_size=rows
            )
        # The logits of one position of each row, in float64.
        assert counted.largest <= rows * n_words * 8 < rows * length * n_words * 4 / 8
        assert counted.peak < rows * length * n_words * 4


class Casts(TorchDispatchMode):
    """Counts how often a tensor of each shape is cast to another precision."""

    def __init__(self):
        super().__init__()
        self.shapes = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten._to_copy.default and kwargs.get("dtype") is torch.bfloat16:
            self.shapes[tuple(args[0].shape)] += 1
        return func(*args, **(kwargs or {}))


def test_autocast_casts_each_weight_once_a_measurement(probe):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 7), nn.ReLU(), nn.Linear(7, 3))
    drawn = assign_players(model, ImagePatches(n_players=4), probe)
    with Casts() as casts:
        masked_outputs(
            model, probe, drawn, chunk_size=4, forward_context=partial(torch.autocast, "cpu", torch.bfloat16)
        )
    assert casts.shapes[7, 64] == casts.shapes[3, 7] == 1 < casts.shapes[4, 64]


def test_a_measurement_in_the_midst_of_autocast_leaves_gradients_alone(probe):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    drawn = assign_players(model, ImagePatches(n_players=4), probe)
    with torch.autocast("cpu", torch.bfloat16):
        masked_outputs(model, probe, drawn)
        model(probe.inputs).sum().backward()
    assert model[1].weight.grad is not None


class NoWaiting(TorchDispatchMode):
    """Raises where the host would wait to learn what a device has computed."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "unique"), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("players", [ImagePatches(n_players=4), FeaturePatches("1", n_players=4)])
@pytest.mark.parametrize("chunk_size", [4, 64])
def test_nothing_in_the_loop_waits(probe, players, chunk_size, monkeypatch):
    model = network()
    drawn = assign_players(model, players, probe)
    monkeypatch.setattr(chunks, "writes_in_place", lambda players: False)  # as on a GPU
    expected = plainly(model, probe, drawn)
    inner = engine._fill

    def watched(*args):
        with NoWaiting():
            return inner(*args)

    monkeypatch.setattr(engine, "_fill", watched)

    def margin(logits, targets):
        return logits.double().gather(1, targets[:, None])[:, 0]

    found = masked_outputs(model, probe, drawn, output=margin, chunk_size=chunk_size)
    monkeypatch.undo()
    torch.testing.assert_close(found, masked_outputs(model, probe, drawn, output="logit"), rtol=0, atol=2e-6)
    assert not torch.equal(found, expected)


@pytest.fixture
def sizes(monkeypatch):
    monkeypatch.setattr(engine, "SIZES", weakref.WeakKeyDictionary())
    return engine.SIZES


def rows_of(model):
    seen = Tally()
    model[-1].register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    return seen


def test_the_chunk_size_follows_from_the_bytes_of_a_row(probe, sizes, monkeypatch):
    found = {}
    for budget in (2**16, 2**20):
        monkeypatch.setattr(chunks, "CPU_BYTES", budget)
        model = network()
        drawn = assign_players(model, FeaturePatches("1", n_players=8), probe)
        seen = rows_of(model)
        masked_outputs(model, probe, drawn)
        found[budget] = max(seen)
        with torch.no_grad(), LiveBytes() as counted:
            model.eval()(torch.rand(found[budget], 1, 8, 8))
        assert counted.peak / 4 < budget
    assert found[2**16] * 16 == found[2**20]


def test_the_chunk_size_is_found_once_and_the_same_for_the_same_network(probe, sizes, monkeypatch):
    counted = []
    inner = engine.fitting_rows
    monkeypatch.setattr(engine, "fitting_rows", lambda runner: (counted.append(inner(runner)), counted[-1])[1])
    model = network()
    drawn = assign_players(model, FeaturePatches("1", n_players=4), probe)
    first = masked_outputs(model, probe, drawn)
    assert torch.equal(masked_outputs(model, probe, drawn), first)
    assert len(counted) == 1
    other = copy.deepcopy(model)
    assert torch.equal(masked_outputs(other, probe, drawn), first)
    assert counted == [counted[0]] * 2
    # Models are not kept alive by what is known of them.
    kept = weakref.ref(other)
    del other
    assert kept() is None


def test_a_size_that_memory_did_not_allow_is_remembered(probe, sizes, caplog):
    model = network()
    drawn = assign_players(model, FeaturePatches("1", n_players=4), probe)
    expected = masked_outputs(model, probe, drawn, chunk_size=8)

    def limited(module, args):
        if len(args[0]) > 10:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    handle = model[-1].register_forward_pre_hook(limited)
    for _ in range(2):
        assert torch.equal(masked_outputs(model, probe, drawn), expected)
    assert [record.args[0] for record in caplog.records if "out of memory" in record.msg] == [64, 32, 16, 8]
    handle.remove()
    seen = rows_of(model)
    masked_outputs(model, probe, drawn)
    assert max(seen[4:]) == 8


@needs_stance
@pytest.mark.parametrize("players", [ImagePatches(n_players=4), FeaturePatches("1", n_players=4)])
def test_compiled_models_are_compiled_once_and_give_the_same(probe, sizes, players):
    model = network()
    drawn = assign_players(model, players, probe)
    expected = masked_outputs(model, probe, drawn)
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(model, backend=counter)
    compiled(probe.inputs)
    found = masked_outputs(compiled, probe, drawn)
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    compiled(probe.inputs)
    count = counter.frame_count
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    assert not torch.equal(masked_outputs(compiled, probe, drawn), found)
    compiled(probe.inputs)
    assert counter.frame_count == count


@pytest.mark.parametrize("layer", ["bert.encoder.layer.0", "bert.embeddings"])
def test_padded_sentences_are_masked_inside_without_running_what_comes_before_again(layer):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=8, num_hidden_layers=2, num_attention_heads=2, intermediate_size=8, num_labels=3,
        initializer_range=0.5,
    )  # fmt: skip
    model = transformers.BertForSequenceClassification(config)
    ids = torch.randint(4, 40, (3, 9))
    attention = torch.ones_like(ids)
    attention[1:, 6:] = 0
    probe = Probe({"input_ids": ids, "attention_mask": attention}, torch.tensor([0, 1, 2]))
    words = Words([f"word{i}" for i in range(40)], n_players=4, layer=layer, baseline=0.0)
    drawn = assign_players(model, words, probe)
    looked_up = Tally()
    table = model.bert.embeddings.word_embeddings
    original = table.forward
    table.forward = lambda ids: (looked_up.append(len(ids)), original(ids))[1]
    found = masked_outputs(model, probe, drawn, chunk_size=8)
    expected = torch.empty(3, 16, dtype=torch.float64)
    model.eval()
    for sample in range(3):
        for coalition in range(16):

            def hook(module, args, result, sample=sample, coalition=coalition):
                hidden = result if isinstance(result, torch.Tensor) else result[0]
                masked = drawn.mask(hidden, sample, torch.tensor([coalition]))
                return masked if isinstance(result, torch.Tensor) else (masked, *result[1:])

            handle = model.get_submodule(layer).register_forward_hook(hook)
            with torch.no_grad():
                z = model(**probe.inputs_of(sample)).logits[0].double()
            handle.remove()
            y = int(probe.targets[sample])
            expected[sample, coalition] = z[y] - torch.cat((z[:y], z[y + 1 :])).logsumexp(0)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert expected.std(dim=1).min() > 1e-3
    assert sum(looked_up[: -3 * 16]) < 20
