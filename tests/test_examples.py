"""Each example at its smallest, on made-up data in the layout that docs/examples.md describes."""

import gzip
import importlib
import itertools
import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from examples import datasets, networks, schedules, training
from interaction_monitor.record import Record

# Pictures take seconds.
pytestmark = pytest.mark.usefixtures("undrawn")

WORDS = ["bold", "charming", "dull", "film", "fresh", "great", "plot", "scene", "tender", "weak"]
SMALLEST = ["--epochs", "1", "--train", "32", "--players", "3", "--samples", "4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    for name in ("mnist", "cifar10", "sst2", "modelnet10", "mnist3", "squad"):
        (folder / name).mkdir()
    for part in ("train", "t10k"):
        pixels, digits = random.integers(256, size=(60, 28, 28)), np.where(np.arange(60) % 2, 3, np.arange(60) % 10)
        (folder / f"mnist/{part}-images-idx3-ubyte.gz").write_bytes(
            gzip.compress(bytes(16) + pixels.astype(np.uint8).tobytes())
        )
        (folder / f"mnist/{part}-labels-idx1-ubyte").write_bytes(bytes(8) + digits.astype(np.uint8).tobytes())
    sizes = {"train": 60, "test": 20}
    for name, shape, kind in (("cifar10", (32, 32, 3), np.uint8), ("modelnet10", (512, 3), np.float16)):
        x = {f"x_{part}": (random.random((n, *shape)) * 255).astype(kind) for part, n in sizes.items()}
        y = {f"y_{part}": (np.arange(n) % 10).astype(np.uint8) for part, n in sizes.items()}
        np.savez(folder / name / "some_name.npz", classes=np.array([*"abcdefghij"]), **x, **y)
    parts = np.stack([np.arange(72).reshape(8, 9)] * 10)
    np.savez(folder / "mnist3/parts.npz", images=random.integers(256, size=(10, 1, 32, 32)), players=parts)
    for part in ("train", "dev"):
        lines = [f"{' '.join(random.choice(WORDS, 6))} \t{i % 2}" for i in range(60)]
        (folder / f"sst2/{part}.tsv").write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
    (folder / "squad/sentence.txt").write_text("A bold film, a dull plot\nThe great scene was weak\n")
    (folder / "squad/predict.txt").write_text("twist\nbut\n")
    (folder / "squad/player_words.json").write_text(json.dumps([["bold", "film,", "plot"], ["great", "scene", "weak"]]))
    return folder


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("mnist", "lenet"),
        ("mnist", "vgg11"),
        ("cifar10", "vgg11"),
        ("cifar10", "alexnet"),
        ("sst2", "scratch"),
        ("sst2", "medium"),
        ("modelnet10", "dgcnn"),
        ("mnist3", "resnet20"),
        ("mnist3", "vgg16"),
        ("breast_cancer", "perceptron"),
    ],
)
def test_each_example_watches_its_run(name, network, data, tmp_path, capsys):
    script = importlib.import_module(f"examples.{name}")
    script.main([*SMALLEST, "--network", network, "--data", str(data), "--out", str(tmp_path / "run")])
    history = Record.open(tmp_path / "run/version_0/interactions").history
    assert [row.epoch for row in history] == [0, 1]
    assert history.n_players == 3
    assert history[-1].n_valid == 4
    assert history[-1].loss_gap is not None
    assert (tmp_path / "run/version_0/story.png").stat().st_size > 10_000
    assert "of the test samples are classified rightly" in capsys.readouterr().out


def test_the_seed_decides_all_of_a_run(tmp_path, capsys):
    script = importlib.import_module("examples.breast_cancer")
    rows = []
    for number, seed in enumerate((3, 3, 4)):
        torch.rand(number + 1)  # whatever was drawn before
        script.main([*SMALLEST, "--seed", str(seed), "--out", str(tmp_path / str(number))])
        history = Record.open(tmp_path / str(number) / "version_0/interactions").history
        rows.append([replace(row, seconds=0.0) for row in history])
    assert rows[0] == rows[1]
    assert rows[0] != rows[2]
    assert "--seed" in refused(script, ["--help"], capsys, code=0).out


def refused(script, command, capsys, *, code=2):
    with pytest.raises(SystemExit) as end:
        script.main(command)
    assert end.value.code == code
    return capsys.readouterr()


@pytest.mark.parametrize(
    ("option", "value", "complaint"),
    [
        ("--epochs", "0", "argument --epochs: must be 1 or more, but is 0"),
        ("--epochs", "many", "argument --epochs: must be 1 or more, but is many"),
        ("--wrong-labels", "1.5", "argument --wrong-labels: must be 0 to 1, but is 1.5"),
        ("--wrong-labels", "nan", "argument --wrong-labels: must be 0 to 1, but is nan"),
        ("--learning-rate", "0", "argument --learning-rate: must be positive, but is 0"),
        ("--learning-rate", "-1", "argument --learning-rate: must be positive, but is -1"),
        ("--seed", "-1", "argument --seed: must be 0 to 4294967295, but is -1"),
        ("--early", "32", "argument --early: must be 0 to 31, but is 32"),
        ("--train", "401", "n_train=401, but there are only 400 training samples"),
        ("--samples", "170", "--samples 170, but there are only 169 test samples"),
        ("--players", "11", "--players 11, but there are only 10 measures"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_line(option, value, complaint, tmp_path, capsys):
    script = importlib.import_module("examples.breast_cancer")
    printed = refused(script, [*SMALLEST, "--out", str(tmp_path / "run"), option, value], capsys)
    assert printed.err.splitlines()[-1].endswith(complaint)
    assert not (tmp_path / "run").exists()


def test_a_file_in_the_place_of_the_output_is_refused_before_training(tmp_path, capsys):
    (tmp_path / "file").touch()
    script = importlib.import_module("examples.breast_cancer")
    for out in (tmp_path / "file", tmp_path / "file/below", ""):
        line = refused(script, [*SMALLEST, "--out", str(out)], capsys).err.splitlines()[-1]
        assert "argument --out: must be a folder, or the name of a new one, but is" in line


def test_what_the_monitor_refuses_is_a_line(data, tmp_path, capsys):
    script = importlib.import_module("examples.mnist")
    command = [*SMALLEST, "--data", str(data), "--out", str(tmp_path / "run"), "--players", "60"]
    assert "players" in refused(script, command, capsys).err.splitlines()[-1]
    assert not (tmp_path / "run").exists()
    assert "docs/examples.md" in refused(script, [*SMALLEST], capsys).err


@pytest.mark.parametrize(
    ("network", "image"),
    [
        (lambda: networks.LeNet(), (1, 28, 28)),
        (lambda: networks.vgg11(channels=1, width=8), (1, 28, 28)),
        (lambda: networks.vgg16(width=8, batch_norm=True), (3, 32, 32)),
        (lambda: networks.AlexNet(width=8), (3, 32, 32)),
        (lambda: networks.AlexNet(channels=1, width=8), (1, 28, 28)),
        (lambda: networks.ResNet20(width=8), (3, 32, 32)),
        (lambda: networks.DynamicGraph(width=8, n_neighbours=4), (40, 3)),
        (lambda: networks.DynamicGraph(width=8, n_neighbours=4, whole=True), (40, 3)),
        (lambda: networks.PointNet(width=8), (40, 3)),
    ],
)
def test_the_networks_give_logits(network, image):
    assert network().eval()(torch.rand(2, *image)).shape == (2, 10)


def test_an_edge_convolution_is_that_of_its_definition():
    torch.manual_seed(0)
    points = importlib.import_module("examples.networks.points")
    layer = points.EdgeConvolution(3, 5, n_neighbours=4).eval()
    clouds = torch.rand(2, 12, 3)
    expected = torch.empty(2, 12, 5)
    for cloud in range(2):
        for i in range(12):
            near = (clouds[cloud] - clouds[cloud, i]).norm(dim=1).argsort()[:4]
            edges = layer.neighbour(clouds[cloud, near] - clouds[cloud, i]) + layer.centre(clouds[cloud, i])
            expected[cloud, i] = edges.amax(dim=0)
    expected = torch.nn.functional.leaky_relu(layer.norm(expected), 0.2)
    torch.testing.assert_close(layer(clouds), expected, rtol=1e-4, atol=1e-5)


def test_wrong_labels_are_a_share_and_the_seed_decides():
    clean, spoilt = datasets.sklearn_digits(), datasets.sklearn_digits(wrong_labels=0.5)
    assert torch.equal(clean.train.tensors[0], spoilt.train.tensors[0])
    wrong = (clean.train.tensors[1] != spoilt.train.tensors[1]).float().mean()
    assert 0.4 < wrong <= 0.5  # one in ten of the labels drawn anew is right
    assert torch.equal(clean.test.tensors[1], spoilt.test.tensors[1])
    other = datasets.sklearn_digits(wrong_labels=0.5, seed=1)
    assert not torch.equal(other.train.tensors[0], spoilt.train.tensors[0])
    few = datasets.sklearn_digits(n_train=100)
    assert torch.equal(few.train.tensors[0], clean.train.tensors[0][:100])


def test_training_and_test_samples_are_different_ones():
    digits = datasets.sklearn_digits()
    assert (len(digits.train), len(digits.test)) == (1200, 597)
    table = datasets.breast_cancer()
    same = (table.train.tensors[0][:, None] == table.test.tensors[0]).all(dim=2).any()
    assert not same


def test_missing_data_are_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"--data FOLDER with mnist in it; docs/examples\.md"):
        datasets.mnist(None)
    with pytest.raises(FileNotFoundError, match=r"there is no .*sst2; docs/examples\.md"):
        datasets.sst2(tmp_path)
    (tmp_path / "cifar10").mkdir()
    with pytest.raises(FileNotFoundError, match=r"must have one .npz file, it has 0"):
        datasets.cifar10(tmp_path)
    with pytest.raises(ValueError, match="n_train=5000, but there are only 1200"):
        datasets.sklearn_digits(n_train=5000)


def test_full_takes_the_papers_settings_and_the_command_line_goes_before():
    small = {"a": training.Size(epochs=3), "b": training.Size(epochs=4, players=5)}
    assert training.options("Text.", small, command=["--network", "b"]).players == 5
    full = training.options("Text.", small, command=["--full", "--epochs", "7"])
    assert (full.epochs, full.players, full.samples, full.learning_rate) == (7, 10, 50, 0.01)


def test_the_schedule_begins_with_the_first_epochs_and_ends_with_the_last():
    due = [epoch for epoch in range(1, 257) if schedules.epochs_of(256)(epoch)]
    assert due[:9] == [1, 2, 3, 4, 6, 8, 11, 16, 32]
    assert due[-1] == 256
    assert [epoch for epoch in range(1, 9) if schedules.epochs_of(8)(epoch)] == list(range(1, 9))


def test_the_chosen_words_of_a_prompt_are_found_with_all_their_tokens(data):
    model = importlib.import_module("examples.prompts")
    prompts = datasets.squad(data, n_players=2)
    assert [len(prompt.players) for prompt in prompts] == [2, 2]

    def tokenizer(text, return_offsets_mapping):
        # Pieces of three letters, each with the space before it.
        begins = [place for place, letter in enumerate(text) if letter == " "]
        edges = sorted({0, len(text), *begins, *(b + 4 for b in begins if b + 4 < len(text))})
        spans = list(itertools.pairwise(edges))
        return {"input_ids": [1] * len(spans), "attention_mask": [1] * len(spans), "offset_mapping": spans}

    probe, chosen = model.tokenised(prompts, tokenizer)
    assert probe.inputs["input_ids"].shape == chosen.shape
    for sample, prompt in enumerate(prompts):
        spans = tokenizer(prompt.text, True)["offset_mapping"]
        for player, word in enumerate(prompt.players):
            covered = [prompt.text[slice(*spans[t])] for t in (chosen[sample] == player).nonzero()[:, 0].tolist()]
            assert word in "".join(covered)
            assert all(any(letter in word for letter in piece.strip()) for piece in covered)
        assert int((probe.inputs["attention_mask"][sample] == 1).sum()) == len(spans)
    assert (chosen[probe.inputs["attention_mask"] == 0] == -1).all()


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tmp_path, capsys):
    script = importlib.import_module("examples.breast_cancer")
    ends = {}
    for name, epochs in (("whole", (3,)), ("in two", (2, 3))):
        for last in epochs:
            torch.rand(last)  # whatever was drawn before
            script.main([*SMALLEST, "--train", "300", "--resume", "--out", str(tmp_path / name), "--epochs", str(last)])
        ends[name] = torch.load(tmp_path / name / "version_0/last.ckpt", weights_only=False)
        assert not (tmp_path / name / "version_1").exists()
    other = [*SMALLEST, "--resume", "--out", str(tmp_path / "whole"), "--seed", "1", "--train", "301"]
    line = refused(script, other, capsys).err.splitlines()[-1]
    assert "last.ckpt is of another run: seed was 0 and is 1, train was 300 and is 301; ask for the same" in line
    capsys.readouterr()
    checkpoint = tmp_path / "whole/version_0/last.ckpt"
    written = checkpoint.stat().st_mtime_ns
    for epochs in ("3", "2"):  # there is nothing left to do
        script.main([*SMALLEST, "--train", "300", "--resume", "--out", str(tmp_path / "whole"), "--epochs", epochs])
        printed = capsys.readouterr().out
        assert printed.startswith(f"{checkpoint.parent} has 3 epochs already; for more ask by --epochs.")
        assert "The whole story in one picture" in printed
    assert checkpoint.stat().st_mtime_ns == written
    content = checkpoint.read_bytes()
    for damaged in (b"", content[:500]):
        checkpoint.write_bytes(damaged)
        line = refused(script, [*SMALLEST, "--resume", "--out", str(tmp_path / "whole")], capsys).err.splitlines()[-1]
        assert re.search(r"last\.ckpt is damaged \(\w+\); put a copy there, or remove it to begin anew", line)
    histories = [Record.open(tmp_path / name / "version_0/interactions").history for name in ends]
    assert [[replace(row, seconds=0.0) for row in history] for history in histories[:1]] == [
        [replace(row, seconds=0.0) for row in history] for history in histories[1:]
    ]
    whole, in_two = ends.values()
    assert whole["global_step"] == in_two["global_step"]
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, in_two["state_dict"][key]), key


def test_the_first_epoch_is_measured_within_and_a_crash_in_the_midst_of_one_loses_nothing(
    tmp_path, monkeypatch, capsys
):
    script = importlib.import_module("examples.breast_cancer")
    command = [*SMALLEST, "--train", "300", "--epochs", "3", "--early", "2", "--resume", "--out"]  # 3 batches an epoch
    script.main([*command, str(tmp_path / "whole")])

    step = training.Classifier.training_step

    def fails(self, batch, batch_idx):
        if self.current_epoch == 1 and batch_idx == 1:
            raise RuntimeError("power cut")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as context:
        context.setattr(training.Classifier, "training_step", fails)
        with pytest.raises(RuntimeError, match="power cut"):
            script.main([*command, str(tmp_path / "cut")])
    script.main([*command, str(tmp_path / "cut")])

    whole, cut = (Record.open(tmp_path / name / "version_0/interactions").history for name in ("whole", "cut"))
    assert [(row.epoch, row.step) for row in whole] == [(0, 0), (0, 2), (1, 4), (2, 7), (3, 9)]
    assert len({row.test_loss for row in whole}) == 5  # each has a new one
    assert [replace(row, seconds=0.0) for row in cut] == [replace(row, seconds=0.0) for row in whole]


def test_sentences_of_all_lengths_give_what_they_give_with_their_padding():
    torch.manual_seed(0)
    network = networks.BertTiny(20).eval()
    lengths = torch.tensor([7, 2, 9, 2, 3, 5, 1])
    ids = torch.randint(1, 20, (7, 12)) * (torch.arange(12) < lengths[:, None])
    for parts in (1, 3, 9):
        torch.testing.assert_close(networks.ByLength(network, parts)(ids), network(ids), rtol=1e-4, atol=1e-5)
