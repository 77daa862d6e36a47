"""The rounding inside a network, against twins of it in higher precision; and where the number goes."""

import copy
import logging
import math
import re
import warnings
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from interaction_monitor import InteractionMonitor, Probe, assign_players, measure
from interaction_monitor.forward import masked_outputs
from interaction_monitor.forward import precision as module
from interaction_monitor.forward.precision import computing_in, largest_of_all, rounding, rounding_warning
from interaction_monitor.functional import and_interactions, noise_floor, orders
from interaction_monitor.history import History
from interaction_monitor.observer import Observer
from interaction_monitor.players import FeaturePatches, ImagePatches
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.plots.browser_figures import reliability_figures
from interaction_monitor.record import Record
from interaction_monitor.report import check, report_page
from interaction_monitor.settings import Settings, Thresholds


def bfloat16():
    return torch.autocast("cpu", torch.bfloat16)


def float16():
    return torch.autocast("cpu", torch.float16)


class Mixed(nn.Module):
    """Layers that refuse tensors of two precisions, casts of its own, a buffer that is written to, and a factory."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.recurrent = nn.LSTM(32, 16, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.3, batch_first=True)
        self.head = nn.Linear(16, 10)
        self.register_buffer("calls", torch.zeros(()))
        self.unused = nn.Parameter(torch.ones(3).half())

    def forward(self, x):
        self.calls += x.mean()
        x, _ = self.recurrent(self.features(x.float()).transpose(1, 2).flatten(2))
        held = torch.zeros(x.shape, dtype=x.dtype)
        held[:] = self.encoder(x)
        return self.head(held.float().mean(1).to(self.head.weight.dtype))


@pytest.fixture
def mlp():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 10))
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight, gain=3)
    return net


@pytest.fixture
def probe():
    torch.manual_seed(1)
    return Probe(torch.rand(6, 1, 8, 8), torch.arange(6))


def with_players(net, probe, *, layer=None, n=6):
    kind = (
        ImagePatches(grid=4, margin=0, n_players=n)
        if layer is None
        else FeaturePatches(layer=layer, grid=4, margin=0, n_players=n)
    )
    return assign_players(net, kind, probe)


def found_and_exact(net, probe, players, context=nullcontext, *, twin=None, **options):
    """σ as measured, and the differences to the float64 twin on all rows."""
    v = masked_outputs(net, probe, players, forward_context=context)
    twin = copy.deepcopy(net).double() if twin is None else twin
    exact = masked_outputs(twin, Probe(probe.inputs.double(), probe.targets), players)
    return rounding(net, probe, players, v, Settings(forward_context=context), **options), v - exact


class TestAgainstATwin:
    def test_float32_is_the_difference_to_float64(self, mlp, probe):
        players = with_players(mlp, probe)
        sigma, errors = found_and_exact(mlp, probe, players, coalitions=64, samples=6)
        assert sigma == pytest.approx(errors.var(dim=1).mean().sqrt().item(), rel=1e-4)

    @pytest.mark.parametrize("context", [bfloat16, float16])
    @pytest.mark.parametrize("layer", [None, "features.2"])
    def test_autocast(self, probe, context, layer):
        torch.manual_seed(0)
        net = nn.Sequential()
        net.features = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        net.head = nn.Sequential(nn.Flatten(), nn.Linear(256, 10))
        players = with_players(net, probe, layer=layer)
        sigma, errors = found_and_exact(net, probe, players, context, coalitions=64, samples=6)
        assert sigma == pytest.approx(errors.var(dim=1).mean().sqrt().item(), rel=1e-3)
        in_float32, _ = found_and_exact(net, probe, players)
        assert sigma > 1000 * in_float32

    def test_half_weights(self, mlp, probe):
        coarse = copy.deepcopy(mlp).bfloat16()
        probe = Probe(probe.inputs.bfloat16(), probe.targets)
        sigma, errors = found_and_exact(coarse, probe, with_players(coarse, probe), coalitions=64, samples=6)
        assert sigma == pytest.approx(errors.var(dim=1).mean().sqrt().item(), rel=1e-3)

    def test_inputs_may_be_cast_on_the_way(self, mlp, probe):
        coarse = copy.deepcopy(mlp).bfloat16()
        players = with_players(coarse, Probe(probe.inputs.bfloat16(), probe.targets))
        cast = {"forward_func": lambda model, x: model(x.bfloat16())}
        v = masked_outputs(coarse, probe, players, **cast)
        exact = masked_outputs(copy.deepcopy(coarse).double(), Probe(probe.inputs.double(), probe.targets), players)
        sigma = rounding(coarse, probe, players, v, Settings(**cast), coalitions=64, samples=6)
        assert sigma == pytest.approx((v - exact).var(dim=1).mean().sqrt().item(), rel=1e-3)

    def test_a_few_rows_tell_as_much(self, mlp, probe):
        players = with_players(mlp, probe, n=8)
        for context in (nullcontext, bfloat16):
            few, _ = found_and_exact(mlp, probe, players, context)
            all_, _ = found_and_exact(mlp, probe, players, context, coalitions=256, samples=6)
            assert few == pytest.approx(all_, rel=0.4)

    def test_it_makes_the_floor_of_dividends(self, mlp, probe):
        sigma, errors = found_and_exact(mlp, probe, with_players(mlp, probe, n=8), bfloat16)
        dividends, floor = and_interactions(errors), noise_floor(8, sigma)
        for k in range(1, 8):
            assert dividends[:, orders(8) == k].square().mean().sqrt().item() == pytest.approx(floor[k - 1], rel=0.5)

    @pytest.mark.parametrize("outside", [nullcontext, bfloat16])
    @pytest.mark.parametrize("inside", [nullcontext, bfloat16, lambda: torch.autocast("cpu", enabled=False)])
    def test_the_model_may_enter_and_leave_an_autocast_itself(self, mlp, probe, outside, inside):
        def forward_func(model, inputs):
            with inside():
                return model(inputs)

        players, options = with_players(mlp, probe), {"forward_func": forward_func, "forward_context": outside}
        v = masked_outputs(mlp, probe, players, **options)
        exact = masked_outputs(copy.deepcopy(mlp).double(), Probe(probe.inputs.double(), probe.targets), players)
        sigma = rounding(mlp, probe, players, v, Settings(**options), coalitions=64, samples=6)
        assert sigma == pytest.approx((v - exact).var(dim=1).mean().sqrt().item(), rel=1e-3)

    def test_dict_inputs(self):
        torch.manual_seed(0)

        class Bag(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding, self.head = nn.Embedding(20, 16), nn.Linear(16, 3)

            def forward(self, ids, weights):
                return self.head((self.embedding(ids) * weights[..., None]).sum(1).tanh())

        net, ids = Bag(), torch.randint(1, 20, (3, 5))
        probe = Probe({"ids": ids, "weights": torch.rand(3, 5)}, torch.arange(3))
        players = PlayerMap(torch.arange(5).repeat(3, 1), n_players=5, axes=(1,), baseline=0, input_key="ids")
        v = masked_outputs(net, probe, players)
        doubled = Probe({"ids": ids, "weights": probe.inputs["weights"].double()}, probe.targets)
        exact = masked_outputs(copy.deepcopy(net).double(), doubled, players)
        sigma = rounding(net, probe, players, v, coalitions=32)
        assert sigma == pytest.approx((v - exact).var(dim=1).mean().sqrt().item(), rel=1e-4)

    def test_diverged_samples_do_not_count(self, mlp, probe):
        players = with_players(mlp, probe)
        v = masked_outputs(mlp, probe, players)
        v[2] = torch.nan
        assert 0 < rounding(mlp, probe, players, v, samples=6) < 1e-4


class TestHigherPrecision:
    @pytest.mark.parametrize("kind", [Mixed, lambda: Mixed().bfloat16(), lambda: Mixed().half()])
    def test_everything_is_computed_in_it(self, kind):
        torch.manual_seed(0)
        net = kind().eval()
        x = torch.rand(3, 1, 8, 8)
        with torch.no_grad(), computing_in(torch.float64):
            found = net(x.to(net.head.weight.dtype) if kind is Mixed else x)
            assert net.head.weight.dtype == torch.float64  # as it looks from within
        assert net.head.weight.dtype != torch.float64
        assert found.dtype == torch.float64
        twin = copy.deepcopy(net).double()
        twin.forward = lambda x: twin.head(
            twin.encoder(twin.recurrent(twin.features(x).transpose(1, 2).flatten(2))[0]).mean(1)
        )
        torch.testing.assert_close(found, twin(x.double()).detach(), rtol=1e-12, atol=1e-12)

    def test_autocast_changes_nothing(self, mlp):
        x = torch.rand(3, 1, 8, 8)
        for dtype in (torch.float32, torch.float64):
            with torch.no_grad(), bfloat16(), computing_in(dtype):
                found = mlp(x)
            torch.testing.assert_close(found, copy.deepcopy(mlp).to(dtype)(x.to(dtype)).detach())

    def test_an_autocast_around_it_casts_anew(self, mlp, probe):
        players = with_players(mlp, probe)
        with bfloat16():
            before = mlp(probe.inputs)
            v = masked_outputs(mlp, probe, players)
            sigma = rounding(mlp, probe, players, v)
            assert torch.equal(mlp(probe.inputs), before)
        assert sigma > 1e-3

    def test_what_a_forward_writes_is_written(self, probe):
        class Writing(nn.Sequential):
            """Computes with a weight that it doubles, a buffer that it moves, and an input that it scales, in place."""

            def forward(self, x):
                x /= 3
                self[1].weight.data.mul_(2)
                self[1].bias.detach().add_(1)
                found = super().forward(x)
                self[1].weight.data.div_(2)
                self[1].bias.view(-1).sub_(1)
                return found

        torch.manual_seed(0)
        net = Writing(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
        players = with_players(net, probe)
        before = copy.deepcopy(net.state_dict())
        sigma, errors = found_and_exact(net, probe, players, coalitions=64, samples=6)
        assert sigma == pytest.approx(errors.var(dim=1).mean().sqrt().item(), rel=0.02)
        for name, value in net.state_dict().items():
            assert torch.equal(value, before[name])


class TestLeavesNoTrace:
    @pytest.mark.parametrize("context", [nullcontext, bfloat16])
    def test_model_and_random_state(self, probe, context):
        torch.manual_seed(0)
        net = Mixed()
        net.encoder.eval()
        players = with_players(net, probe, layer="features.2")
        v = masked_outputs(net, probe, players, forward_context=context)
        before = [
            (tensor, tensor.clone(), tensor.dtype, tensor.requires_grad)
            for tensor in (*net.parameters(), *net.buffers())
        ]
        flags = [part.training for part in net.modules()]
        hooks = [len(part._forward_hooks) for part in net.modules()]
        state = torch.get_rng_state()
        assert rounding(net, probe, players, v, Settings(forward_context=context)) > 0
        for now, (tensor, value, dtype, gradient) in zip((*net.parameters(), *net.buffers()), before, strict=True):
            assert now is tensor
            assert (now.dtype, now.requires_grad) == (dtype, gradient)
            assert torch.equal(now, value)
        assert flags == [part.training for part in net.modules()]
        assert hooks == [len(part._forward_hooks) for part in net.modules()]
        assert torch.equal(state, torch.get_rng_state())

    def test_the_same_each_time(self, mlp, probe):
        players = with_players(mlp, probe)
        v = masked_outputs(mlp, probe, players)
        assert rounding(mlp, probe, players, v) == rounding(mlp, probe, players, v)


class TestNotKnown:
    def test_float64(self, mlp, probe, caplog):
        mlp, probe = mlp.double(), Probe(probe.inputs.double(), probe.targets)
        players = with_players(mlp, probe)
        with caplog.at_level(logging.INFO, logger=module.__name__):
            assert math.isnan(rounding(mlp, probe, players, masked_outputs(mlp, probe, players)))
        assert "it computes in float64" in caplog.text
        assert Observer(probe, players).observe(mlp, epoch=0, step=0).rounding is None

    def test_a_kernel_that_knows_no_float64(self, mlp, probe, caplog):
        class Kernel(nn.Module):
            def forward(self, x):
                if x.dtype == torch.float64:
                    raise NotImplementedError("no float64")
                return x

        net = nn.Sequential(*mlp, Kernel())
        players = with_players(net, probe)
        with caplog.at_level(logging.INFO, logger=module.__name__):
            result = measure(net, probe, players, interactions="and")
        assert math.isnan(result.rounding)
        assert "no float64" in caplog.text
        assert result.valid.all()

    def test_memory_runs_out(self, mlp, probe, monkeypatch):
        def no_more(*_args):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

        players = with_players(mlp, probe)
        v = masked_outputs(mlp, probe, players)
        monkeypatch.setattr(module.Runner, "logits_of_rows", no_more)
        assert math.isnan(rounding(mlp, probe, players, v))
        assert mlp.training


class TestWhereItGoes:
    def test_measurement_and_row(self, mlp, probe):
        players = with_players(mlp, probe)
        sigma = measure(mlp, probe, players, interactions="and", forward_context=bfloat16).rounding
        row = Observer(probe, players, interactions="and", forward_context=bfloat16).observe(mlp, epoch=0, step=0)
        assert row.rounding == sigma > 1e-3

    def test_lightning_knows_the_trainers_precision(self, make_net, make_trainer, loaders, tmp_path):
        found = {}
        for precision in ("32-true", "bf16-mixed", "bf16-true", "64-true"):
            torch.manual_seed(0)
            monitor = InteractionMonitor(
                FeaturePatches(layer="features.2", grid=4, margin=0, n_players=4), n_samples=5, interactions="and"
            )
            trainer = make_trainer(
                monitor, max_epochs=1, precision=precision, default_root_dir=tmp_path / precision, logger=False,
                enable_checkpointing=False, limit_train_batches=2, limit_val_batches=1,
            )  # fmt: skip
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trainer.fit(make_net(), *loaders)
            record = Record.open(monitor.observer.record.folder)
            assert record.history == monitor.observer.history
            found[precision] = record.history.column("rounding")
        assert (found["32-true"] < 1e-5).all()
        assert (found["bf16-mixed"] > 1e3 * found["32-true"]).all()
        assert (found["bf16-true"] > 1e3 * found["32-true"]).all()
        assert np.isnan(found["64-true"]).all()

    def test_transformers_casts_inside_the_model(self, tmp_path, monkeypatch):
        import transformers_runs as runs

        monkeypatch.setattr("interaction_monitor.callbacks.loggers.Loggers.draw", lambda *_, **__: None)
        found = {}
        for bf16 in (False, True):
            _, watcher = runs.trained(tmp_path / str(bf16), bf16=bf16, max_steps=2, eval_strategy="no")
            found[bf16] = watcher.observer.history.column("rounding")
        assert (found[False] > 0).all()
        assert (found[True] > 1e3 * found[False]).all()

    def test_rows_of_before_do_not_know_it(self, planted_run):
        record = planted_run()
        path = record.folder / "history.csv"
        lines = [line.split(",") for line in path.read_text().splitlines()]
        at = lines[0].index("rounding")
        path.write_text("".join(",".join(cells[:at] + cells[at + 1 :]) + "\n" for cells in lines))
        assert np.isnan(Record.open(record.folder).history.column("rounding")).all()
        primitives = record.history[0].to_primitives()
        del primitives["rounding"]
        assert type(record.history[0]).from_primitives(primitives).rounding is None


def warning_of(measured, settings):
    return rounding_warning(measured.rounding, measured.v[measured.valid], measured.tau, settings)


class TestWarning:
    @pytest.fixture
    def measured(self, planted_run):
        return replace(planted_run().measurements[-1], rounding=1.0)

    def flat(self, measured, change):
        """The measurement of a network whose outputs differ by that much in the middle, and by nothing at the ends."""
        v = torch.zeros_like(measured.v)
        v[:, 1] = change
        return replace(measured, v=v)

    def test_and_alone_takes_up_rounding_as_it_is(self, measured):
        settings = Settings(interactions="and")
        for order in range(1, 6):  # the floor of this order is just above the threshold
            loud = replace(measured, rounding=1.01 * measured.tau / 2 ** (order / 2))
            assert f"of order {order} and above" in warning_of(loud, settings)
        assert warning_of(replace(measured, rounding=0.99 * measured.tau / 2**2.5), settings) is None
        assert warning_of(replace(measured, rounding=math.nan), settings) is None

    def test_the_extraction_leaves_out_what_its_correction_reaches(self, measured):
        settings = Settings(thresholds=Thresholds(noise=0.02))
        limit = 0.02 * measured.output_change / largest_of_all(1.0, 5)
        assert warning_of(replace(measured, rounding=0.99 * limit), settings) is None
        text = warning_of(replace(measured, rounding=1.5 * limit), settings)
        assert "measure in float32" in text
        deviation, largest, removed = map(
            float, re.findall(r"(?:deviation of|errors up to|them up to) (\S+[0-9])", text)
        )
        assert deviation < removed < largest, "a reader sees why"

    def test_says_why_there_is_no_correction(self, measured):
        measured = replace(measured, rounding=1e-7)
        none = warning_of(measured, Settings(thresholds=Thresholds(noise=0)))
        assert "Thresholds(noise=0) forbids that" in none
        assert "give Thresholds(noise=0.02)" in none
        flat = warning_of(self.flat(measured, 1.0), Settings())
        assert "masking all players changes no output" in flat
        assert "give Thresholds" not in flat
        uneven = self.flat(measured, 1.0)
        uneven.v[:, -1] = 1.234e-9
        assert "can remove them up to 2.5e-11" in warning_of(uneven, Settings())
        assert warning_of(replace(measured, rounding=0.0), Settings(thresholds=Thresholds(noise=0))) is None

    @pytest.mark.parametrize("kind", ["and-or", "and"])
    def test_a_network_that_gives_the_same_whatever_is_masked_is_named(self, measured, kind):
        measured = replace(measured, rounding=1e-12)
        apart = 2 * largest_of_all(1e-12, 5)
        text = warning_of(self.flat(measured, 0.99 * apart), Settings(interactions=kind))
        assert "the network gives the same output whatever is masked" in text
        assert "within 5.2e-12" in text
        assert "float32" not in text
        text = warning_of(self.flat(measured, 1.01 * apart), Settings(interactions=kind))
        assert text is None or "whatever is masked" not in text

    def test_once_before_training_and_once_from_then_on(self, mlp, probe):
        players = with_players(mlp, probe, n=8)
        observer = Observer(probe, players, interactions="and", forward_context=bfloat16)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for epoch in range(4):
                observer.observe(mlp, epoch=epoch, step=epoch)
        said = [str(warning.message) for warning in caught if "rounding inside" in str(warning.message)]
        assert len(said) == 2
        assert "epoch 0" in said[0]
        assert "falls from this untrained network may be rounding too" in said[0]
        assert "epoch 1" in said[1]
        assert "untrained" not in said[1]


class TestReport:
    def test_draws_the_floor_as_measured(self, planted_run):
        run = planted_run()
        last = run.measurements[5]
        size = check([last], [0]).size
        sigma = float(size[2] / 2 / 2**1.5 * 0.99)  # twice the floor is just below the interactions of order three
        checks = check([last], [0], rounding=sigma)
        np.testing.assert_allclose(checks.floor, sigma * 2 ** (np.arange(1, 6) / 2))
        assert checks.above_floor == [k for k in range(1, 6) if size[k - 1] > 2 * sigma * 2 ** (k / 2)]
        assert 3 in checks.above_floor
        assert 5 not in checks.above_floor

        def floors(checks):
            figures = reliability_figures(run.history, checks, ["the end"], noise=None, tol=None)
            (panel,) = figures["noise-floor"]["panels"]
            return {series["name"]: series for series in panel["series"]}

        drawn = floors(checks)
        np.testing.assert_allclose(drawn["floor as measured"]["y"], checks.floor, rtol=1e-3)
        assert drawn["floor as measured"]["width"] > drawn["floor in float32"]["width"]
        unknown = set(floors(check([last], [0])))
        assert unknown == set(drawn) - {"floor as measured"}

    def test_pure_rounding_is_above_it_in_no_order(self, planted_run):
        last = planted_run().measurements[5]
        for seed in range(20):
            v = torch.randn(last.v.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
            noise = replace(last, v=v, and_=and_interactions(v))
            assert check([noise], [0], with_or=False, rounding=1.0).above_floor == []

    @pytest.mark.parametrize(("kind", "said"), [("and", "most cannot be told"), ("and-or", "need not be, since")])
    def test_says_which_orders_lie_above_it(self, planted_run, kind, said):
        record = planted_run(kind=kind)
        assert "there is nothing higher to compare with" in report_page(record)
        record.history = History(replace(row, rounding=1e-9) for row in record.history)
        page = report_page(record)
        assert "standard deviation of 1e-09" in page
        assert "has at least twice the size of the floor in orders 1 to 5. That says nothing of single" in page
        assert said in page
        assert "nothing higher to compare with" not in page


def test_largest_of_all():
    drawn = torch.randn(200, 2**10, generator=torch.Generator().manual_seed(0)).abs().max(dim=1).values.mean()
    assert largest_of_all(1.0, 10) == pytest.approx(drawn.item(), rel=0.15)
