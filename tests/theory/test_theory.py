"""The theory laid over a run: where phase two begins, what is left out, and whether the noise level falls."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from rows import make_row

from interaction_monitor.history import History
from interaction_monitor.plots import theory_text
from interaction_monitor.record import Record
from interaction_monitor.theory import Overlay, SigmaFit, Trend, fit_record


def overlay_of(low, high, *, turn=0, onset_known=True):
    rows = [make_row(i, i, n=2) for i in range(len(low))]
    low, high = torch.tensor(low).double(), torch.tensor(high).double()
    even = torch.ones(len(low), 2).double()
    grid = torch.tensor([0.0, 1e-6, 1.0]).double()
    fit = SigmaFit(
        sigma2=(low + high) / 2, low=low, high=high, real=even, theory=even, cosine=1 - low / 10, divergence=low / 10,
        grid=grid, curve=torch.zeros(len(low), 3), distance="total-variation", level=0.95,
    )  # fmt: skip
    return Overlay(History(rows), fit, turn, onset_known, ())


class TestOverlay:
    def test_finds_the_planted_noise(self, planted_run):
        overlay = fit_record(planted_run())
        assert overlay.turn == 2
        assert overlay.onset_known
        assert overlay.in_phase_two.tolist() == [False, False, True, True, True, True]
        planted = torch.tensor([0.3, 0.03, 1e-3, 0.0])
        fit = overlay.fit
        # Not exact: the record has one threshold for all samples, the theory one for each.
        assert ((fit.sigma2[2:] / planted)[:3].log2().abs() < 0.5).all()
        assert fit.sigma2[5] == 0
        assert (fit.cosine[2:] > 0.995).all()
        assert overlay.trend.direction == "falls"
        np.testing.assert_allclose(overlay.predicted_order[2:], overlay.measured_order[2:], atol=0.05)

    def test_takes_the_lowest_mean_order_where_no_onset_is_known(self, planted_run):
        record = planted_run(onset=None)
        overlay = fit_record(record)
        assert not overlay.onset_known
        assert overlay.turn == int(np.argmin(record.history.column("mean_order"))) == 2

    def test_and_alone(self, planted_run):
        overlay = fit_record(planted_run(kind="and"))
        assert overlay.trend.direction == "falls"
        assert (overlay.fit.cosine[2:] > 0.995).all()

    def test_leaves_out_what_diverged(self, planted_run):
        record = planted_run()
        path = record.folder / "measurements" / "epoch_00001_step_00000010.npz"
        arrays = dict(np.load(path))
        arrays["strength"][:] = np.nan
        np.savez(path, **arrays)
        overlay = fit_record(Record.open(record.folder))
        assert overlay.left_out == ("epoch 1",)
        assert overlay.history.epochs.tolist() == [0, 2, 3, 4, 5]
        assert overlay.turn == 1

    def test_leaves_out_what_has_no_valid_sample_whatever_else_it_holds(self, planted_run):
        record = planted_run()
        path = record.folder / "measurements" / "epoch_00001_step_00000010.npz"
        arrays = dict(np.load(path))
        arrays["valid"][:] = False
        np.savez(path, **arrays)
        assert fit_record(Record.open(record.folder)).left_out == ("epoch 1",)

    @pytest.mark.parametrize(
        ("low", "high", "expected"),
        [
            ([0.5, 0.1, 0.01, 0.0], [0.9, 0.4, 0.05, 0.0], Trend("falls", 0, 2)),
            # Points that rise within their intervals are no rise.
            ([0.5, 0.01, 0.02, 0.0], [0.9, 0.2, 0.6, 0.0], Trend("falls", 0, 1)),
            ([0.5, 0.01, 0.3, 0.0], [0.9, 0.02, 0.6, 0.0], Trend("rises", 1, 2)),
            # The prediction is made from the last, so that it lies below the others says nothing.
            ([0.5, 0.4, 0.3, 0.0], [0.9, 0.8, 0.9, 0.0], Trend("unclear")),
            # What lies in phase one does not count: here the first measurement.
            ([0.001, 0.5, 0.1, 0.0], [0.002, 0.9, 0.2, 0.0], Trend("falls", 1, 2)),
            ([float("nan"), 0.5, 0.1, 0.0], [float("nan"), 0.9, 0.2, 0.0], Trend("falls", 1, 2)),
        ],
    )
    def test_judges_the_trend_by_the_intervals(self, low, high, expected):
        assert overlay_of(low, high, turn=1 if low[0] == 0.001 else 0).trend == expected

    def test_names_steps_where_epochs_repeat(self):
        overlay = overlay_of([0.5, 0.1, 0.0], [0.9, 0.4, 0.0])
        assert overlay.places == ["epoch 0", "epoch 1", "epoch 2"]
        often = replace(overlay, history=History(replace(row, epoch=row.step // 2) for row in overlay.history))
        assert often.places == ["step 0", "step 1", "step 2"]
        assert [line.split()[0] for line in theory_text.table(often).splitlines()] == ["step", "0", "1", "2"]

    def test_the_worst_match_is_one_of_phase_two(self):
        overlay = overlay_of([0.9, 0.1, 0.4, 0.2], [1.0, 1.0, 1.0, 1.0], turn=1)
        assert overlay.worst == 2
