"""The loaders of the examples, on small made-up folders in the layouts that the data sets are published in."""

import importlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from examples import datasets, networks
from interaction_monitor import assign_players
from interaction_monitor.forward import masked_outputs
from interaction_monitor.language_models import last_token_logits, most_probable
from interaction_monitor.measurement import interpret
from interaction_monitor.record import Record

# Pictures take seconds.
pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    random = np.random.default_rng(0)

    def picture(path, size, colour=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(256, size=(*size, 3)).astype(np.uint8)
        if colour is not None:
            pixels[4:12, 10:20] = colour  # rows 4 to 12, columns 10 to 20
        Image.fromarray(pixels).save(path)

    cub = folder / "CUB_200_2011"
    cub.mkdir()
    names = [f"{1 + i % 2:03d}.Bird_{i % 2}/bird_{i}.png" for i in range(40)]
    for i, name in enumerate(names):
        picture(cub / "images" / name, (16, 24), colour=(255, 0, 0) if i % 2 else (0, 0, 255))
    tables = {
        "classes": "\n".join(["1 001.Bird_0", "2 002.Bird_1"]),
        "images": "\n".join(f"{i + 1} {name}" for i, name in enumerate(names)),
        "image_class_labels": "\n".join(f"{i + 1} {1 + i % 2}" for i in range(40)),
        "train_test_split": "\n".join(f"{i + 1} {int(i < 24)}" for i in range(40)),
        "bounding_boxes": "\n".join(f"{i + 1} 10.0 4.0 10.0 8.0" for i in range(40)),
    }
    for name, text in tables.items():
        (cub / f"{name}.txt").write_text(text + "\n")

    tiny = folder / "tiny-imagenet-200"
    wnids = [f"n{i:08d}" for i in range(8)]
    tiny.mkdir()
    (tiny / "wnids.txt").write_text("\n".join(reversed(wnids)) + "\n")
    for name in wnids:
        for i in range(12):
            picture(tiny / "train" / name / "images" / f"{name}_{i}.JPEG", (64, 64))
    lines = []
    for i in range(24):
        picture(tiny / "val/images" / f"val_{i}.JPEG", (64, 64))
        lines.append(f"val_{i}.JPEG\t{wnids[i % 8]}\t0\t0\t63\t63")
    (tiny / "val/val_annotations.txt").write_text("\n".join(lines) + "\n")

    shapes = folder / "shapenetcore_partanno_segmentation_benchmark_v0_normal"
    (shapes / "train_test_split").mkdir(parents=True)
    (shapes / "synsetoffset2category.txt").write_text("Airplane\t02691156\nBag\t02773838\n")
    for name, count in (("train", 24), ("test", 8)):
        listed = [f"shape_data/{('02691156', '02773838')[i % 2]}/{name}{i}" for i in range(count)]
        (shapes / f"train_test_split/shuffled_{name}_file_list.json").write_text(json.dumps(listed))
        for entry in listed:
            file = shapes / f"{entry.removeprefix('shape_data/')}.txt"
            file.parent.mkdir(exist_ok=True)
            np.savetxt(file, random.normal(size=(150 if name == "train" else 90, 7)))

    cifar = folder / "cifar-10-batches-bin"
    cifar.mkdir()
    (cifar / "batches.meta.txt").write_text("\n".join(["airplane", "automobile", *"cdefghij"]) + "\n\n")
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        rows = random.integers(256, size=(6, 3073)).astype(np.uint8)
        rows[:, 0] = np.arange(6)
        rows.tofile(cifar / name)

    (folder / "mnist").mkdir()
    for part, count in (("train", 6), ("t10k", 4)):
        (folder / f"mnist/{part}-images-idx3-ubyte").write_bytes(bytes(16 + 784 * count))
        (folder / f"mnist/{part}-labels-idx1-ubyte").write_bytes(bytes(8 + count))

    squad = folder / "squad"
    squad.mkdir()
    words = [f"word{i}" for i in range(28)] + ["end.", "the", "of", "early", "a", "the", "Target", "rest"]
    context = {"context": " ".join(words), "qas": []}
    short = {"context": "too short", "qas": []}
    (squad / "dev-v1.1.json").write_text(json.dumps({"data": [{"title": "T", "paragraphs": [context, short]}]}))
    return folder


def test_birds_are_cropped_by_their_boxes(published):
    data = datasets.cub200(published, size=8, n_train=20, wrong_labels=0.5)
    assert (len(data.train), len(data.test)) == (20, 16)
    assert data.classes == ("001.Bird_0", "002.Bird_1")
    right = 0
    for image, label in data.train:
        assert image.shape == (3, 8, 8)
        red, blue = ((image * 0.225 + 0.45)[channel].mean() for channel in (0, 2))
        right += bool(red > blue) == bool(label == 1)  # nothing but the colour inside of the box
        assert image.flatten(1).std(dim=1).max() < 1e-3
    assert 10 <= right < 20
    assert all(bool(image[0].mean() > image[2].mean()) == bool(label == 1) for image, label in data.test)


def test_tiny_imagenet_takes_classes_at_equal_distances(published):
    data = datasets.tiny_imagenet(published, size=16)
    assert data.classes == ("n00000003", "n00000007")
    assert (len(data.train), len(data.test)) == (24, 6)
    assert sorted({file.parent.parent.name for file in data.train.files}) == list(data.classes)
    assert data.test.labels.tolist() == [0, 1] * 3
    with pytest.raises(ValueError, match=r"every=9, but wnids\.txt names fewer classes"):
        datasets.tiny_imagenet(published, every=9)


def test_shapes_are_clouds_in_the_unit_ball(published):
    data = datasets.shapenet(published, n_points=128)
    x, y = data.train.tensors
    assert x.shape == (24, 128, 3)
    assert data.test.tensors[0].shape == (8, 128, 3)  # of 90 points each
    assert data.classes == ("Airplane", "Bag")
    torch.testing.assert_close(x.norm(dim=2).amax(dim=1).max(), torch.tensor(1.0))
    assert sorted(y.tolist()) == [0] * 12 + [1] * 12
    assert torch.equal(datasets.shapenet(published, n_points=128, seed=5).test.tensors[0], data.test.tensors[0])


def test_the_binary_cifar_is_read(published):
    data = datasets.cifar10(published)
    assert (len(data.train), len(data.test)) == (30, 6)
    assert data.classes[:2] == ("airplane", "automobile")
    raw = np.fromfile(published / "cifar-10-batches-bin/test_batch.bin", dtype=np.uint8).reshape(6, 3073)[2]
    assert data.test.tensors[1].tolist() == list(range(6))
    image = data.test.tensors[0][2]
    order = torch.tensor(raw[1:].reshape(3, 1024).astype(float)).argsort(dim=1)
    assert (image.flatten(1).gather(1, order).diff(dim=1) >= 0).all()


def test_prompts_are_made_by_the_papers_rules(published):
    (prompt,) = datasets.squad(published, n_players=5)
    assert prompt.following == "Target"  # neither a stop word nor within five words of the end of a sentence
    assert len(prompt.text.split()) == 34
    assert len(prompt.players) == 5
    places = [prompt.text.split().index(word) for word in prompt.players]
    assert places == sorted(places)


def test_lenet_without_padding_is_the_papers():
    network = networks.LeNet(size=32, padding=0)
    assert network.features[:2](torch.rand(1, 1, 32, 32)).shape[-2:] == (28, 28)
    assert network.classifier[1].in_features == 400
    assert network(torch.rand(2, 1, 32, 32)).shape == (2, 10)


TINY, SHAPES = "tiny-imagenet-200", "shapenetcore_partanno_segmentation_benchmark_v0_normal"


@pytest.mark.parametrize(
    ("load", "file", "content", "said"),
    [
        ("cub200", "CUB_200_2011/images/001.Bird_0/bird_0.png", None, "1 of 40 pictures are missing"),
        ("cub200", "CUB_200_2011/bounding_boxes.txt", b"1 1 1 4 4", r"bounding_boxes\.txt has no line for picture 10"),
        (
            "cub200",
            "CUB_200_2011/bounding_boxes.txt",
            b"1 1 1 4",
            r"a number and 4 more in each line, but has '1 1 1 4'",
        ),
        ("cub200", "CUB_200_2011/classes.txt", b"1 001.Bird_0", r"classes\.txt names no class 2"),
        ("cub200", "CUB_200_2011/classes.txt", b"1 \xe9", r"classes\.txt is not as docs/examples\.md describes it"),
        ("cub200", "CUB_200_2011/images.txt", b"", "there are 0 training samples"),
        ("cub200", "CUB_200_2011/images/001.Bird_0/bird_0.png", b"", "1 of 40 pictures are missing or empty"),
        (
            "tiny_imagenet",
            f"{TINY}/val/val_annotations.txt",
            b"val_0.JPEG n00000003",
            "has 'val_0.JPEG n00000003'; get",
        ),
        ("tiny_imagenet", f"{TINY}/val/val_annotations.txt", b"val_0.JPEG\tn00000002\t0", "there are 0 test samples"),
        ("shapenet", f"{SHAPES}/02773838/train1.txt", b"1 2\n3 4", r"train1\.txt is not as .* invalid column index"),
        ("shapenet", f"{SHAPES}/02773838/train1.txt", b"1 2 3\n1 2 3", r"train1\.txt must hold two different points"),
        ("shapenet", f"{SHAPES}/02773838/train1.txt", b"1 2 3\n1 2 nan", r"train1\.txt must hold .* all finite"),
        (
            "shapenet",
            f"{SHAPES}/train_test_split/shuffled_test_file_list.json",
            b"[",
            r"test_file_list\.json is not as",
        ),
        (
            "shapenet",
            f"{SHAPES}/train_test_split/shuffled_test_file_list.json",
            b"[]",
            r"test_file_list\.json lists no",
        ),
        ("cifar10", "cifar-10-batches-bin/data_batch_2.bin", b"", "data_batch_2.bin is cut off: 0 bytes"),
        ("cifar10", "cifar-10-batches-bin/test_batch.bin", bytes([200] * 3073), "from 200 to 200, but there are 10 cl"),
        ("mnist", "mnist/t10k-labels-idx1-ubyte", b"", "t10k-labels-idx1-ubyte is cut off within its heading"),
        ("squad", "squad/dev-v1.1.json", b"[1]", r"squad/dev-v1\.1\.json is not as docs/examples\.md describes it"),
        ("sst2", "sst2/train.tsv", b"good\t1\n", "must begin with a heading, but begins with 'good.t1'"),
        ("sst2", "sst2/train.tsv", b"sentence\tlabel\n", r"sst2/train\.tsv has no sentence"),
        (
            "sst2",
            "sst2/train.tsv",
            b"sentence\tlabel\ncaf\xe9\t1\n",
            r"sst2/train\.tsv is not as .*UnicodeDecodeError",
        ),
        ("tiny_imagenet", f"{TINY}/train/n00000003/images", None, "there is no .*n00000003/images"),
        ("tiny_imagenet", f"{TINY}/val/images/val_3.JPEG", None, "1 of 30 pictures are missing"),
        ("shapenet", f"{SHAPES}/synsetoffset2category.txt", b"Bag 02773838", "names no kind 02691156"),
        ("shapenet", f"{SHAPES}/02773838/train1.txt", b"", r"train1\.txt is empty"),
        ("cifar10", "cifar-10-batches-bin/data_batch_2.bin", bytes(3000), "data_batch_2.bin is cut off: 3000 bytes"),
        ("mnist", "mnist/train-labels-idx1-ubyte", bytes(8 + 4), "has 6 images and 4 labels"),
        ("mnist", "mnist/train-labels-idx1-ubyte.gz", b"\x1f\x8b\x08", "cut off or no gzip file"),
        (
            "sst2",
            "sst2/train.tsv",
            b"index\tsentence\n0\tgood\n",
            "sentence, tab, 0 or 1 in each line, but has '0 good'",
        ),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_before_training(load, file, content, said, published, tmp_path):
    folder, changed = file.partition("/")[0], tmp_path / file
    if (published / folder).exists():
        shutil.copytree(published / folder, tmp_path / folder)
    if content is None:
        shutil.rmtree(changed) if changed.is_dir() else changed.unlink()
    else:
        changed.parent.mkdir(exist_ok=True)
        changed.write_bytes(content)
    with pytest.raises((FileNotFoundError, ValueError), match=said):
        getattr(datasets, load)(tmp_path)


def test_a_picture_that_is_cut_off_is_named(published, tmp_path):
    shutil.copytree(published / TINY, tmp_path / TINY)
    file = tmp_path / TINY / "val/images/val_3.JPEG"
    file.write_bytes(file.read_bytes()[:400])
    with pytest.raises(ValueError, match=r"val_3\.JPEG is not as .*; get it again"):
        list(datasets.tiny_imagenet(tmp_path, size=4).test)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"y_train": [0, 1]}, r"there are 3 training samples, and labels of shape \(2,\)"),
        ({"x_test": np.zeros((3, 3, 32, 32), dtype=np.uint8)}, r"x_test of cifar10 must be \(N, 32, 32, 3\), but is"),
        ({"classes": None}, r"it\.npz is not as docs/examples\.md describes it .*classes"),
    ],
)
def test_arrays_of_another_shape_are_refused(tmp_path, changed, said):
    right = {"x_train": np.zeros((3, 32, 32, 3), dtype=np.uint8), "y_train": [0, 1, 2], "classes": ["a", "b", "c"]}
    right |= {"x_test": right["x_train"], "y_test": right["y_train"]}
    (tmp_path / "cifar10").mkdir()
    np.savez(tmp_path / "cifar10/it.npz", **{key: a for key, a in (right | changed).items() if a is not None})
    with pytest.raises(ValueError, match=said):
        datasets.cifar10(tmp_path)


def test_clouds_of_fewer_points_than_are_taken_are_refused(tmp_path):
    (tmp_path / "modelnet10").mkdir()
    clouds, labels = np.ones((2, 64, 3)), [0, 1]
    np.savez(
        tmp_path / "modelnet10/it.npz", x_train=clouds, y_train=labels, x_test=clouds, y_test=labels, classes=["a", "b"]
    )
    assert len(datasets.modelnet10(tmp_path, n_points=64).train) == 2
    with pytest.raises(ValueError, match=r"x_train of modelnet10 must be \(N, 128 or more, 3\), but is \(2, 64, 3\)"):
        datasets.modelnet10(tmp_path, n_points=128)


def test_the_authors_prompts_belong_together(tmp_path):
    (tmp_path / "squad").mkdir()
    text = "one two\x85three four"  # a letter at which `splitlines` would break
    files = {"sentence.txt": f"{text}\r\n", "predict.txt": "five\n", "player_words.json": '[["one", "four"]]'}

    def load(**changed):
        for name, content in (files | {key.replace("_txt", ".txt"): value for key, value in changed.items()}).items():
            (tmp_path / "squad" / name).write_bytes(content.encode())
        return datasets.squad(tmp_path, n_players=2)

    assert load() == [datasets.Prompt(text, ("one", "four"), "five")]
    with pytest.raises(ValueError, match=r"1 lines in sentence\.txt, 2 in predict\.txt and 1 lists"):
        load(predict_txt="five\nsix\n")
    with pytest.raises(ValueError, match=r"line 1 of squad/sentence\.txt lacks its word 'four'"):
        load(sentence_txt="one two three")


def test_what_is_still_packed_is_to_be_unpacked(tmp_path):
    (tmp_path / "CUB_200_2011.tgz").touch()
    with pytest.raises(FileNotFoundError, match=r"there is no .*CUB_200_2011; unpack CUB_200_2011\.tgz"):
        datasets.cub200(tmp_path)


def test_what_a_file_manager_leaves_and_blank_lines_do_not_count(published, tmp_path):
    shutil.copytree(published / TINY, tmp_path / TINY)
    (tmp_path / TINY / "train/n00000003/images/Thumbs.db").touch()
    lines = tmp_path / TINY / "val/val_annotations.txt"
    lines.write_bytes(lines.read_bytes().replace(b"\n", b"\r\n") + b"\r\n")
    data = datasets.tiny_imagenet(tmp_path, size=4)
    assert (len(data.train), len(data.test)) == (24, 6)
    (tmp_path / "sst2").mkdir()
    for part in ("train", "dev"):
        (tmp_path / f"sst2/{part}.tsv").write_bytes(b"sentence\tlabel\r\ngood film \t1\r\n\r\n")
    assert datasets.sst2(tmp_path).train.tensors[1].tolist() == [1]


@pytest.mark.parametrize(
    ("name", "network"),
    [("cub200", "alexnet"), ("tiny_imagenet", "vgg16"), ("shapenet", "dgcnn"), ("cifar10", "vgg16")],
)
def test_each_is_watched(name, network, published, tmp_path, capsys):
    script = importlib.import_module(f"examples.{name}")
    sizes = ["--epochs", "1", "--train", "20", "--players", "3", "--samples", "4"]
    script.main([*sizes, "--network", network, "--data", str(published), "--out", str(tmp_path / "run")])
    history = Record.open(tmp_path / "run/version_0/interactions").history
    assert [row.epoch for row in history] == [0, 1]
    assert history.n_players == 3


def saved(folder, words, kind, **sizes):
    """Save a tiny model of a kind with a tokenizer of whole words, as save_pretrained does."""
    transformers = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    vocabulary = {word: at for at, word in enumerate(["[PAD]", "[UNK]", "[MASK]", *dict.fromkeys(words)])}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    special = {"unk_token": "[UNK]", "mask_token": "[MASK]", "pad_token": "[PAD]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=plain, **special).save_pretrained(folder)
    name = kind.partition("For")[0]
    sizes = {"vocab_size": len(vocabulary), "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1} | sizes
    torch.manual_seed(len(folder.name))
    getattr(transformers, kind)(getattr(transformers, f"{name}Config")(**sizes)).save_pretrained(folder)
    return str(folder)


OPT = {"ffn_dim": 16, "word_embed_proj_dim": 16, "max_position_embeddings": 64}


def test_a_language_model_of_a_folder_is_measured(published, tmp_path, capsys):
    (prompt,) = datasets.squad(published, n_players=3)
    model = saved(tmp_path / "opt", prompt.text.split(), "OPTForCausalLM", **OPT)
    script = importlib.import_module("examples.language_model")
    command = ["--data", str(published), "--players", "3", "--samples", "1", "--out", str(tmp_path / "out")]
    script.main([*command, "--model", model])
    first = capsys.readouterr().out
    assert "1 prompts" in first
    rows = (tmp_path / "out/orders.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in rows] == ["prompt", "1"]
    with np.load(tmp_path / "out/outputs.npz") as file:
        found = interpret(torch.from_numpy(file["v"]))
    both = torch.cat((found.and_[0, 1:], found.or_[0, 1:])).tolist()  # without nobody's, which is no interaction
    assert int(rows[1].split(",")[3]) == sum(abs(effect) >= found.tau for effect in both)
    assert (tmp_path / "out/prompt_1.png").read_bytes().startswith(b"\x89PNG")
    script.main([*command, "--model", model])  # what is kept is not measured again
    assert capsys.readouterr().out.splitlines() == first.splitlines()[-len(first.splitlines()) + 3 :]
    with pytest.raises(SystemExit):
        script.main([*command, "--model", str(tmp_path), "--out", str(tmp_path / "other")])
    assert "put there what save_pretrained writes" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["OPTForCausalLM", "LlamaForCausalLM"])
def test_a_language_model_is_measured_with_random_weights_of_a_spread(published, tmp_path, kind):
    script = importlib.import_module("examples.language_model")
    prompts = importlib.import_module("examples.prompts")
    (prompt,) = datasets.squad(published, n_players=3)
    folder = saved(tmp_path / "model", prompt.text.split(), kind, **(OPT if kind == "OPTForCausalLM" else {}))
    model, _ = prompts.of_folder(Path(folder))
    drawn, again, other = (script.drawn_anew(model, 0.5, seed) for seed in (1, 1, 2))
    weights = [next(net.base_model.parameters()).detach() for net in (drawn, again, other, model)]
    assert weights[0].std() == pytest.approx(0.5, rel=0.2)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert weights[3].std() < 0.1  # what was given is left alone
    out = tmp_path / "out"
    command = ["--data", str(published), "--players", "3", "--samples", "1", "--model", folder, "--out", str(out)]
    script.main([*command, "--random", "0.5"])
    assert np.load(out / "outputs.npz")["v"].std() > 0
    with pytest.raises(SystemExit):  # not those of the weights in the folder
        script.main(command)


@pytest.mark.parametrize("kind", ["OPTForCausalLM", "LlamaForCausalLM"])
def test_what_prefixes_share_is_run_once_to_the_same_outputs(published, tmp_path, kind):
    llama = {"intermediate_size": 16, "num_hidden_layers": 2, "initializer_range": 0.5}
    sizes = {"OPTForCausalLM": OPT | {"init_std": 0.5}, "LlamaForCausalLM": llama}
    prompts = importlib.import_module("examples.prompts")
    (prompt,) = datasets.squad(published, n_players=4)
    model, tokenizer = prompts.of_folder(Path(saved(tmp_path / "model", prompt.text.split(), kind, **sizes[kind])))
    baseline = torch.ones(16)
    v, expected = prompts.next_word_outputs(model, tokenizer, prompt, 4, baseline=baseline)
    probe, chosen = prompts.tokenised([prompt], tokenizer)
    probe = most_probable(model, probe)
    assert probe.targets.tolist() == [expected]
    players = assign_players(model, prompts.embedded_words(model, tokenizer, chosen, 4, baseline), probe)
    whole = masked_outputs(model, probe, players, output="next_token_log_odds", forward_func=last_token_logits)
    assert v.std() > 1e-3
    torch.testing.assert_close(v, whole[0], rtol=0, atol=1e-3 * float(v.std()))


def test_two_language_models_are_compared_and_what_was_measured_is_kept(published, tmp_path, monkeypatch, capsys):
    words = datasets.squad(published, n_players=3)[0].text.split()
    folders = [
        saved(tmp_path / "opt", words, "OPTForCausalLM", **OPT),
        saved(tmp_path / "llama", reversed(words), "LlamaForCausalLM", intermediate_size=16),
    ]
    np.save(tmp_path / "learned.npy", np.ones((3, 16), dtype=np.float32))
    script = importlib.import_module("examples.shared_models")
    command = [
        "--data",
        str(published),
        "--task",
        "next_word",
        "--players",
        "3",
        "--samples",
        "1",
        "--models",
        *folders,
    ]
    command += ["--baselines", *[str(tmp_path / "learned.npy")] * 2, "--out", str(tmp_path / "out")]
    script.main(command)
    first = capsys.readouterr().out
    kept = [np.load(tmp_path / f"out/outputs_{number}.npz")["v"] for number in (1, 2)]
    assert [v.shape for v in kept] == [(1, 8), (1, 8)]
    assert all(v.std() > 0 for v in kept)
    assert not np.allclose(*kept)
    prompts = importlib.import_module("examples.prompts")
    monkeypatch.setattr(prompts, "next_word_outputs", None)  # nothing is measured again
    script.main(command)
    assert capsys.readouterr().out.splitlines()[:20] == first.splitlines()[2:22]
    place = tmp_path / "out/outputs_1.npz"
    with np.load(place) as file:
        kept = dict(file)
    for options, changed, said in (
        (["--players", "4"], {}, "is of another run"),
        ([], {"texts": ["another prompt"]}, "outputs_1.npz holds the outputs of other texts or players; give another"),
        ([], {"asked": None}, "outputs_1.npz is damaged (KeyError); remove it to begin anew"),
    ):
        np.savez(place, **{key: value for key, value in (kept | changed).items() if value is not None})
        with pytest.raises(SystemExit):
            script.main([*command, *options])
        assert said in capsys.readouterr().err


def test_two_classifiers_are_compared_on_the_same_words(published, tmp_path, monkeypatch, capsys):
    sentences = ["a bold and truly charming film", "the plot , dull from start to end", "so bad", "weak but great fun"]
    lines = [f"{text} \t{at % 2}" for at, text in enumerate(sentences)]
    (tmp_path / "sst2").mkdir()
    (tmp_path / "sst2/dev.tsv").write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
    words = " ".join(sentences).split()
    texts = datasets.sst2_sentences(tmp_path, n_players=3)
    assert sorted(text.text for text in texts) == sorted(sentences[at] for at in (0, 1, 3))
    assert {text.text: text.following for text in texts}[sentences[1]] == "positive"
    base = saved(tmp_path / "base", words, "BertForSequenceClassification", intermediate_size=16, initializer_range=0.5)
    large = saved(tmp_path / "large", words, "BertForSequenceClassification", intermediate_size=16, num_hidden_layers=2)
    script = importlib.import_module("examples.shared_models")
    command = ["--data", str(tmp_path), "--players", "3", "--samples", "2", "--out", str(tmp_path / "out")]
    script.main([*command, "--models", base, large])
    assert "base" in (out := capsys.readouterr().out)
    assert "large" in out
    v = np.load(tmp_path / "out/outputs_1.npz")["v"]
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(base)
    for text, row in zip(texts, v, strict=False):
        for coalition in range(8):
            absent = [word for at, word in enumerate(text.players) if not coalition >> at & 1]
            masked = " ".join("[MASK]" if word in absent else word for word in text.text.split())
            with torch.no_grad():
                logits = model(**tokenizer(masked, return_tensors="pt")).logits[0].double()
            expected = (logits[1] - logits[0]) * (1 if text.following == "positive" else -1)
            assert row[coalition] == pytest.approx(float(expected), abs=1e-5)
    learned = torch.randn(16, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "learned.npy", learned.numpy())
    by_vector = [*command[:-1], str(tmp_path / "by_vector"), "--models", base, large, "--baselines"]
    script.main([*by_vector, *[str(tmp_path / "learned.npy")] * 2])
    found = np.load(tmp_path / "by_vector/outputs_1.npz")["v"]
    assert not np.allclose(found, v, atol=1e-2)
    for text, row in zip(texts, found, strict=False):
        tokens = model.get_input_embeddings()(tokenizer(text.text, return_tensors="pt")["input_ids"])[0]
        places = [text.text.split().index(word) for word in text.players]
        for coalition in range(8):
            rows = tokens.clone()
            rows[[at for player, at in enumerate(places) if not coalition >> player & 1]] = learned
            with torch.no_grad():
                logits = model(inputs_embeds=rows[None]).logits[0].double()
            expected = (logits[1] - logits[0]) * (1 if text.following == "positive" else -1)
            assert row[coalition] == pytest.approx(float(expected), abs=1e-5)
    np.save(tmp_path / "narrow.npy", np.ones(3))
    for options, said in (
        (["--baselines", str(tmp_path / "narrow.npy"), str(tmp_path / "learned.npy")], "16 features, but its --base"),
        (["--baselines", str(tmp_path / "none.npy"), str(tmp_path / "learned.npy")], "none.npy"),
        (["--players", "15"], "n_players=15: networks are compared by 2 to 14"),
    ):
        with pytest.raises(SystemExit):
            script.main([*command[:-1], str(tmp_path / "other"), "--models", base, large, *options])
        assert said in capsys.readouterr().err
    three = saved(tmp_path / "three", words, "BertForSequenceClassification", intermediate_size=16, num_labels=3)
    unfit = saved(tmp_path / "unfit", words, "OPTForCausalLM", **OPT)
    for wrong, said in ((three, "has 3 classes"), (unfit, "has no weights for score")):
        with pytest.raises(SystemExit):
            script.main([*command, "--models", wrong, large, "--out", str(tmp_path / "other")])
        assert said in capsys.readouterr().err


def test_a_word_is_not_found_within_another():
    prompts = importlib.import_module("examples.prompts")
    text = datasets.Prompt("a party of art", ("art",), "")
    assert prompts.player_of_tokens(text, [(0, 1), (2, 7), (8, 10), (11, 14)]) == [-1, -1, -1, 0]


def test_a_pretrained_encoder_becomes_a_classifier_that_can_be_compared(tmp_path, capsys):
    lines = [f"{word} film \t{at % 2}" for at, word in enumerate(["dull", "great"] * 20)]
    (tmp_path / "sst2").mkdir()
    for part in ("train", "dev"):
        (tmp_path / f"sst2/{part}.tsv").write_text("\n".join(["sentence\tlabel", *lines]) + "\n")
    sizes = {"intermediate_size": 16, "num_hidden_layers": 2}
    pretrained = saved(tmp_path / "bert", ["dull", "great", "film"], "BertForMaskedLM", **sizes)
    script = importlib.import_module("examples.fine_tune")
    command = ["--data", str(tmp_path), "--model", pretrained, "--out", str(tmp_path / "tuned"), "--layers", "1"]
    script.main([*command, "--train", "32", "--epochs", "40", "--learning-rate", "0.01"])
    assert "100.0% of the test sentences right" in capsys.readouterr().out
    model, tokenizer = importlib.import_module("examples.prompts").of_folder(
        tmp_path / "tuned", "SequenceClassification"
    )
    assert model.config.num_hidden_layers == 1
    logits = model(**tokenizer(["dull film", "great film"], return_tensors="pt", padding=True)).logits
    assert logits.argmax(1).tolist() == [0, 1]
    with pytest.raises(SystemExit):
        script.main([*command[:3], str(tmp_path / "nothing"), *command[4:]])
    assert "nothing" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        script.main([*command[:-1], "3"])  # further layers would be random ones
    assert "--layers 3, but" in capsys.readouterr().err
