from __future__ import annotations

import math

import matplotlib as mpl
import pytest
import torch
import torch.distributed
import torch.multiprocessing

from interaction_monitor import functional
from interaction_monitor.functional import (
    generalizing_share,
    generalizing_strength,
    order_strength,
)
from interaction_monitor.metrics import GeneralizingStrength, OrderDistribution

mpl.use("Agg")

N = 4


def sample_games(samples, seed=0):
    """Outputs whose sizes differ a hundredfold, so that averaging τ over shards would show."""
    generator = torch.Generator().manual_seed(seed)
    size = 100 ** torch.rand(samples, 1, generator=generator, dtype=torch.float64)
    v = size * torch.randn(samples, 2**N, generator=generator, dtype=torch.float64)
    or_ = functional.or_interactions(v / 2)
    return v, functional.and_interactions(v - functional.or_outputs(or_)), or_


def expected(v, and_, or_):
    tau = 0.03 * (v[:, -1] - v[:, 0]).abs().mean().item()
    strength = torch.zeros(len(v), N).double()
    count = 0
    for row in range(len(v)):
        for interactions in (and_, or_):
            for coalition in range(1, 2**N):
                size = interactions[row, coalition].abs().item()
                if size >= tau:
                    strength[row, bin(coalition).count("1") - 1] += size
                    count += 1
    total = strength.sum(0)
    return {
        "distribution": total / total.mean(),
        "strength": total / len(v),
        "mean_order": (total * torch.arange(1, N + 1)).sum() / total.sum(),
        "n_salient": torch.tensor(count / len(v), dtype=torch.float64),
    }


def assert_same(result, truth):
    assert result.keys() == truth.keys()
    for name, value in truth.items():
        torch.testing.assert_close(result[name], value, rtol=1e-12, atol=1e-12)


def filled(*games):
    metric = OrderDistribution(N)
    for game in games:
        metric.update(*game)
    return metric


def shard(game, rows):
    return tuple(tensor[rows] for tensor in game)


def test_agrees_with_a_loop_whatever_the_batches():
    game = sample_games(11)
    truth = expected(*game)
    assert_same(filled(game).compute(), truth)
    assert_same(filled(shard(game, slice(0, 1)), shard(game, slice(1, 9)), shard(game, slice(9, 11))).compute(), truth)


def test_averaging_over_shards_would_be_wrong():
    game = sample_games(11)
    parts = [filled(shard(game, rows)).compute() for rows in (slice(0, 2), slice(2, 11))]
    average = (2 * parts[0]["n_salient"] + 9 * parts[1]["n_salient"]) / 11
    assert (average - expected(*game)["n_salient"]).abs() > 0.5


@pytest.mark.skipif(not hasattr(OrderDistribution, "merge_state"), reason="this torchmetrics cannot merge")
def test_merged_states_of_unequal_shards():
    game = sample_games(11)
    parts = [filled(shard(game, rows)) for rows in (slice(0, 2), slice(2, 3), slice(3, 11))]
    whole = parts[0]
    whole.merge_state(parts[1])
    whole.merge_state(parts[2])
    assert_same(whole.compute(), expected(*game))


def test_forward_gives_the_batch_and_keeps_the_whole():
    game = sample_games(7)
    metric = OrderDistribution(N)
    first, second = shard(game, slice(0, 3)), shard(game, slice(3, 7))
    assert_same(metric(*first), expected(*first))
    assert_same(metric(*second), expected(*second))
    assert_same(metric.compute(), expected(*game))
    metric.reset()
    metric.update(*second)
    assert_same(metric.compute(), expected(*second))


def test_samples_that_are_not_finite_are_left_out():
    v, and_, or_ = sample_games(5)
    v[1, 3] = float("nan")
    and_[2, 0] = float("inf")
    assert_same(filled((v, and_, or_)).compute(), expected(*shard((v, and_, or_), [0, 3, 4])))


def test_without_or_and_in_low_precision():
    v = torch.tensor([[0.0, 1.0, 1.0, 5.0]], dtype=torch.bfloat16)
    metric = OrderDistribution(2)
    metric.update(v, functional.and_interactions(v), None)
    result = metric.compute()
    assert result["strength"].tolist() == [2.0, 3.0]
    assert result["strength"].dtype == torch.float64


def test_no_samples():
    empty = torch.zeros(0, 2**N)
    result = filled((empty, empty, empty)).compute()
    assert result["distribution"].tolist() == [0.0] * N
    assert result["mean_order"].isnan()


def gather_in_process(rank, port, shards, queue):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=len(shards)
    )
    game = sample_games(11)
    metric = OrderDistribution(N)
    rows = shards[rank]
    if rows is not None:
        metric.update(*shard(game, slice(*rows)))
    queue.put({name: value.tolist() for name, value in metric.compute().items()})
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize("shards", [((0, 3), (3, 11)), ((0, 11), None)], ids=["unequal", "one empty"])
def test_two_processes(shards):
    context = torch.multiprocessing.get_context("fork")
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    port = store.port
    del store
    queue = context.SimpleQueue()
    processes = [context.Process(target=gather_in_process, args=(rank, port, shards, queue)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    for _ in processes:
        result = {name: torch.tensor(value, dtype=torch.float64) for name, value in queue.get().items()}
        assert_same(result, expected(*sample_games(11)))


def test_plot_draws_the_distribution():
    metric = filled(sample_games(5))
    figure, axes = metric.plot()
    assert [bar.get_height() for bar in axes.patches] == metric.compute()["distribution"].tolist()
    assert axes.get_xlabel() == "order k"
    same_figure, same_axes = metric.plot([metric.compute()] * 3, ax=figure.subplots())
    assert same_figure is figure
    assert len(same_axes.lines) == 3
    mpl.pyplot.close(figure)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"n_players.*0"):
        OrderDistribution(0)
    with pytest.raises(ValueError, match=r"fraction.*-0\.1"):
        OrderDistribution(3, fraction=-0.1)
    with pytest.raises(ValueError, match=r"\(samples, 16\).*\(2, 8\)"):
        OrderDistribution(4).update(*[torch.zeros(2, 8)] * 3)
    with pytest.raises(ValueError, match=r"\(samples, 4\).*\(2, 4\), \(2, 4\), \(1, 4\)"):
        OrderDistribution(2).update(torch.zeros(2, 4), torch.zeros(2, 4), torch.zeros(1, 4))
    # Only OR may be left out: without AND the strength would be half of it.
    with pytest.raises(ValueError, match=r"\(samples, 4\).*\(2, 4\), NoneType, \(2, 4\)"):
        OrderDistribution(2).update(torch.zeros(2, 4), None, torch.zeros(2, 4))


def network(seed, *, samples=4, n=3, sparse=0.5):
    generator = torch.Generator().manual_seed(seed)
    and_, or_ = torch.randn(2, samples, 2**n, generator=generator, dtype=torch.float64)
    mask = torch.rand(2, samples, 2**n, generator=generator) < sparse
    return and_ * mask[0], or_ * mask[1], 0.4


def test_the_metric_does_not_depend_on_batches():
    v = torch.randn(6, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    and_, or_, _ = network(0, samples=6)
    references = [network(seed, samples=6) for seed in (1, 2)]
    whole, parts = GeneralizingStrength(n_players=3), GeneralizingStrength(n_players=3)
    whole.update(v, and_, or_, references)
    for rows in (slice(0, 1), slice(1, 1), slice(1, 6)):
        parts.update(v[rows], and_[rows], or_[rows], [(a[rows], o[rows], tau) for a, o, tau in references])
    tau = 0.03 * (v[:, -1] - v[:, 0]).abs().mean()
    generalizing = generalizing_strength(and_, or_, references, tau=tau)
    strength = order_strength(and_, or_, tau)
    low, share, high = generalizing_share(generalizing, strength)
    for result in (whole.compute(), parts.compute()):
        interval = [result[name].item() for name in ("share_low", "share", "share_high")]
        assert interval == pytest.approx([low, share, high])
        torch.testing.assert_close(result["generalizing"], generalizing.mean(0))
        torch.testing.assert_close(result["strength"], strength.mean(0))
        torch.testing.assert_close(result["share_by_order"], generalizing.sum(0) / strength.sum(0))


def test_the_metric_leaves_out_samples_that_are_not_finite_and_draws():
    v = torch.randn(4, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    and_, or_, _ = network(0)
    reference = network(1)
    whole, some = GeneralizingStrength(n_players=3), GeneralizingStrength(n_players=3)
    some.update(v[1:], and_[1:], or_[1:], [(reference[0][1:], reference[1][1:], reference[2])])
    reference[0][0, 2] = math.nan
    whole.update(v, and_, or_, [reference])
    assert whole.compute()["share"] == some.compute()["share"]
    alone = GeneralizingStrength(n_players=3)
    alone.update(v, and_, None, [(reference[0], None, 0.4)])
    assert 0 <= alone.compute()["share"] <= 1
    for drawn in (some.plot()[1], some.plot([some.compute(), whole.compute()])[1]):
        assert drawn.get_ylabel()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_players": 0}, "n_players must be at least 1"),
        ({"n_players": 2, "fraction": -1}, "fraction must be at least 0"),
        ({"n_players": 2, "level": 1}, "level must lie between 0 and 1"),
    ],
)
def test_bad_arguments_of_the_metric_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        GeneralizingStrength(**arguments)


def test_the_metric_names_what_does_not_fit():
    metric = GeneralizingStrength(n_players=3)
    and_, or_, _ = network(0, n=2)
    with pytest.raises(ValueError, match=r"must be \(samples, 8\), as n_players is 3"):
        metric.update(and_, and_, or_, [(and_, or_, 0.1)])
