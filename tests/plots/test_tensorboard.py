"""What a run shows in TensorBoard, read back from its files."""

import itertools
import re

import numpy as np
import pytest
from rows import make_history
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from torch.utils.tensorboard import SummaryWriter

from interaction_monitor.plots import tensorboard

N = 10


@pytest.fixture(scope="module")
def history():
    return make_history()


@pytest.fixture(scope="module")
def written(tmp_path_factory, history):
    folder = tmp_path_factory.mktemp("events")
    writer = SummaryWriter(folder)
    for i, row in enumerate(history):
        tensorboard.write_measurement(writer, history[: i + 1], step=row.step)
    writer.close()
    events = EventAccumulator(str(folder), size_guidance={"histograms": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events


def test_every_measurement_has_a_histogram_with_one_bin_per_order(written, history):
    found = written.Histograms("interactions/orders")
    assert [event.step for event in found] == history.steps.tolist()
    for event, row in zip(found, history, strict=True):
        value = event.histogram_value
        assert value.bucket_limit == [k + 0.5 for k in range(1, N + 1)]
        np.testing.assert_allclose(value.bucket, row.distribution, atol=2e-6)
        assert (value.min, value.max) == (0.5, N + 0.5)
        assert value.sum / value.num == pytest.approx(row.mean_order, abs=1e-4)
        # TensorBoard would drop empty bins at either end and stretch the last full one over the gap.
        assert min(value.bucket) > 0


def test_the_ridge_shows_spindle_low_and_rising(written, history):
    ridges = written.Histograms("interactions/orders_from_early_to_late")
    assert [event.step for event in ridges] == list(range(len(ridges)))
    assert len(ridges) <= 20
    means = np.array([event.histogram_value.sum / event.histogram_value.num for event in ridges])
    lowest = int(means.argmin())
    assert 3 < lowest < len(means) - 3
    assert means[0] > 3.5
    assert means[lowest] < 1.4
    assert means[-1] > 2
    assert (np.diff(means[: lowest + 1]) < 0).all()
    assert (np.diff(means[lowest:]) > 0).all()
    peak = int(np.argmax(ridges[0].histogram_value.bucket)) + 1
    assert 3 <= peak <= 5, "a spindle has its peak in the middle"
    assert np.argmax(ridges[lowest].histogram_value.bucket) == 0


def test_the_text_is_there_and_the_story_comes_first_of_the_pictures(written):
    assert min(tensorboard.PICTURES) == "story", "TensorBoard sorts by name"
    (text,) = written.Tensors("interactions/how_to_read/text_summary")
    words = text.tensor_proto.string_val[0].decode()
    assert "`interactions/orders_from_early_to_late`" in words
    assert "{name}" not in words


def test_the_phase_is_charted_where_it_was_and_never_taken_back(history):
    points = []
    for i, row in enumerate(history):
        points += tensorboard.decided_phases(history[: i + 1], step=row.step)
    assert points == [(10 * epoch, 1 if epoch < 10 else 2) for epoch in range(61)]
    # A logger may count one behind.
    assert tensorboard.decided_phases(history[:16], step=149) == [(149, 2)]
    assert tensorboard.decided_phases(history[:15], step=139)[:2] == [(99, 2), (109, 2)]
    assert tensorboard.first_undecided(history[:13], step=121) == 100
    assert tensorboard.first_undecided(history, step=601) == 601


def test_a_verdict_is_told_where_it_was_reached(written):
    said = written.Tensors("interactions/verdict/text_summary")
    words = [text.tensor_proto.string_val[0].decode() for text in said]
    assert [text.step for text in said] == [0, 10, 140, 330]
    assert words[0].startswith("1 measurement is too few")
    assert words[2].startswith("Phase two began at epoch 10")
    assert words[3].endswith("opened at epoch 20.")


def read_layout(events):
    layout = layout_pb2.Layout()
    layout.ParseFromString(events.Tensors("custom_scalars__config__")[-1].tensor_proto.string_val[0])
    return {category.title: {chart.title: chart for chart in category.chart} for category in layout.category}


def matched(chart, tags):
    # As TensorBoard's plugin does it.
    return [tag for expression in chart.multiline.tag for tag in tags if re.compile(expression).match(tag)]


@pytest.mark.parametrize("when", [0, 1])
def test_a_layout_of_the_users_survives_beside_ours(tmp_path, history, when):
    theirs = {"mine": {"rates": ["Multiline", ["lr/.*"]]}}
    with SummaryWriter(str(tmp_path)) as writer:
        for i, row in enumerate(history[:3]):
            if i == when:
                writer.add_custom_scalars(theirs)
            tensorboard.write_measurement(writer, history[: i + 1], step=row.step)
            tensorboard.write_measurement(writer, history[: i + 1], name="other", step=row.step)
    layout = read_layout(EventAccumulator(str(tmp_path)).Reload())
    assert set(layout) == {"mine", "interactions", "other"}
    assert list(layout["mine"]["rates"].multiline.tag) == ["lr/.*"]
    assert layout["interactions"].keys() == layout["other"].keys()
    assert layout["interactions"].keys() == tensorboard.custom_scalars(N)["interactions"].keys()


def test_the_custom_layout(written):
    assert len(written.Tensors("custom_scalars__config__")) == 1
    charts_of = read_layout(written)["interactions"]
    tags = ["interactions/mean_order", "interactions/mean_order_low"]
    assert matched(charts_of["mean order ⟨k⟩"], tags) == tags[:1]
    orders = [f"interactions/order_{k}" for k in range(1, 13)]
    of_orders = [matched(chart, orders) for title, chart in charts_of.items() if title.startswith("I^(k)")]
    assert of_orders == [orders[:4], orders[4:7], orders[7:10]]
    tags = ["interactions/persisted_share", "interactions/persisted_share_2"]
    assert matched(charts_of["share that persisted since the measurement before"], tags) == tags[:1]
    tags = ["interactions/mean_order", "interactions/mean_order_low", "interactions/loss_gap", "train_loss_epoch",
            "train_loss_step", "val_loss", "val_loss_2"]  # fmt: skip
    assert matched(charts_of["mean order, losses and loss gap"], tags) == [
        "interactions/mean_order", "interactions/loss_gap", "train_loss_epoch", "val_loss",
    ]  # fmt: skip


def test_two_monitors_share_one_writers_layout(tmp_path, history):
    writer = SummaryWriter(tmp_path)
    for i in range(3):
        for name in ("inputs", "features"):
            tensorboard.write_measurement(writer, history[: i + 1], name=name, step=i, losses=["my.loss"])
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    layout = read_layout(events)
    assert list(layout) == ["inputs", "features"]
    found = matched(layout["features"]["mean order, losses and loss gap"], ["my.loss", "my_loss", "val_loss"])
    assert found == ["my.loss"]


@pytest.mark.parametrize("nothing", [[0.0] * 3, [float("nan")] * 3])
def test_a_distribution_of_nothing_is_not_written(tmp_path, nothing):
    writer = SummaryWriter(tmp_path)
    tensorboard.write_histogram(writer, nothing, tag="orders", step=0)
    tensorboard.write_histogram(writer, [0.0, 3.0, 0.0], tag="orders", step=1)
    writer.close()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Histograms("orders")] == [1]


def test_pictures_are_due_ever_more_rarely():
    due = [n for n in range(1, 1001) if tensorboard.ridge_due(n)]
    assert due[:4] == [1, 2, 3, 4]
    assert len(due) < 30
    assert all(b <= max(a + 1, 1.35 * a) for a, b in itertools.pairwise(due))
    assert not tensorboard.ridge_due(0)


def test_a_share_by_order_is_no_chart_of_its_own():
    values = {f"run/{key}": 0.5 for key in ("generalizing_share", "generalizing_share_order_2", "order_2")}
    assert set(tensorboard.charted(values, "run")) == {"run/generalizing_share", "run/order_2"}
    assert tensorboard.charted({"run/evaluated_gap": 0.1}, "run") == {}, "one gap alone is shown, of one pair of losses"


def test_the_custom_scalars_have_a_chart_for_it_only_where_it_is_known():
    chart = "generalizing share"
    assert chart not in tensorboard.custom_scalars(3)["interactions"]
    kind, tags = tensorboard.custom_scalars(3, reference=True)["interactions"][chart]
    assert kind == "Multiline"
    assert [bool(re.match(tag, "interactions/generalizing_share")) for tag in tags] == [True]
