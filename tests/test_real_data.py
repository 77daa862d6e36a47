"""The public data sets as the examples read them, and what is measured on them: where their folder is named."""

import importlib
import os
from pathlib import Path

import pytest

from examples import datasets
from interaction_monitor.functional import and_outputs, or_outputs
from interaction_monitor.functional.extraction import NOISE
from interaction_monitor.record import Record

pytestmark = pytest.mark.data


@pytest.fixture
def data():
    """Tell where a data set lies; a test is skipped where it does not."""
    folder = os.environ.get("INTERACTION_MONITOR_DATA")

    def of(name):
        if folder is None or not (Path(folder) / name).is_dir():
            pytest.skip(f"INTERACTION_MONITOR_DATA names no folder with {name} in it")
        return folder

    return of


def test_mnist_has_the_digits_and_the_brightness_that_it_is_known_for(data):
    mnist = datasets.mnist(data("mnist"))
    x, y = mnist.train.tensors
    assert len(y) == 60_000
    assert mnist.test.tensors[1].bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    # What every tutorial normalises by.
    assert float(x.mean()) == pytest.approx(0.1307, abs=5e-5)
    assert float(x.std()) == pytest.approx(0.3081, abs=5e-5)


def test_sst2_has_the_sentences_that_glue_counts(data):
    sst2 = datasets.sst2(data("sst2"))
    assert sst2.train.tensors[1].bincount().tolist() == [29_780, 37_569]
    assert sst2.test.tensors[1].bincount().tolist() == [428, 444]


def test_labelled_parts_of_a_three_are_apart_and_lie_on_its_strokes(data):
    images, parts = datasets.mnist3_parts(data("mnist3"))
    assert parts.shape == (100, 8, 9)
    assert all(len(set(of_image.tolist())) == 72 for of_image in parts.flatten(1))
    on_parts = images.flatten(1).gather(1, parts.flatten(1)).mean(1)
    assert (on_parts > 1.5 * images.flatten(1).mean(1)).all()


def test_players_of_a_prompt_are_words_of_it(data):
    prompts = datasets.squad(data("squad"))
    assert len(prompts) == 1000
    for prompt in prompts:
        assert len(prompt.players) == 10
        assert set(prompt.players) <= set(prompt.text.split())


@pytest.mark.parametrize(
    ("name", "network", "epochs", "rate"), [("mnist", "lenet", 6, 0.1), ("mnist3", "resnet20", 3, 0.05)]
)
@pytest.mark.usefixtures("undrawn")
def test_what_is_measured_explains_the_outputs_and_grows_simpler_at_first(name, network, epochs, rate, data, tmp_path):
    """Ren et al. 2024: interactions match every output, and their mean order falls in the first phase."""
    command = ["--network", network, "--data", data(name), "--out", str(tmp_path), "--train", "600"]
    sizes = ["--players", "6", "--samples", "12", "--epochs", str(epochs), "--learning-rate", str(rate)]
    importlib.import_module(f"examples.{name}").main([*command, *sizes])
    record = Record.open(tmp_path / "version_0/interactions")
    for measured in record.measurements:
        change = (measured.v[:, -1] - measured.v[:, 0]).abs()
        missed = (measured.v - and_outputs(measured.and_) - or_outputs(measured.or_)).abs().amax(1)
        assert (missed <= (1 + 1e-9) * NOISE * change + 1e-9).all()
    assert record.history[-1].mean_order < record.history[0].mean_order - 0.3
