"""The networks of the forward benchmark, each with its players and with the bare layers behind the mask."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from examples.networks import DynamicGraph, LeNet, PointNet, vgg11
from interaction_monitor import Probe
from interaction_monitor.players import FeaturePatches, ImagePatches, PointClusters, Words
from interaction_monitor.players.base import Players


@dataclass(frozen=True)
class Case:
    """A network, what is masked, and the layers behind the mask as a function of what arrives there."""

    name: str
    model: nn.Module
    probe: Probe
    players: Players
    suffix: Callable[[Any], object]
    arriving: Callable[[Tensor, Any], Any] = lambda masked, _inputs: masked  # what the suffix takes, from masked rows


def behind(model: nn.Sequential, layer: str) -> nn.Sequential:
    """The layers of a sequence of `features` and more behind one of the features."""
    features, *rest = model
    return nn.Sequential(*list(features)[int(layer.split(".")[1]) + 1 :], *rest)


def images(n_samples: int, channels: int, size: int) -> Probe:
    return Probe(torch.rand(n_samples, channels, size, size), torch.arange(n_samples) % 10)


def cases(*, n_players: int | None = None, n_samples: int | None = None) -> Iterator[Case]:
    """Give the networks one after the other, with random weights."""
    torch.manual_seed(0)
    net: Any = LeNet()
    probe = images(n_samples or 20, 1, 28)
    patches = FeaturePatches("features.1", grid=7, n_players=n_players or 10)
    yield Case("LeNet, 28x28", net, probe, patches, behind(net, "features.1"))
    yield Case("LeNet, 28x28", net, probe, ImagePatches(grid=7, n_players=n_players or 10), net)
    net, probe = vgg11(), images(n_samples or 1, 3, 32)
    patches = FeaturePatches("features.4", grid=8, n_players=n_players or 10)
    yield Case("VGG-11, 32x32", net, probe, patches, behind(net, "features.4"))
    clouds = Probe(torch.randn(n_samples or 2, 256, 3), torch.arange(n_samples or 2) % 10)
    for name, net in (("PointNet, 256 points", PointNet()), ("DGCNN, 256 points", DynamicGraph())):
        yield Case(name, net, clouds, PointClusters(n_players=n_players or 9), net)
    yield from bert(n_players or 8, n_samples or 2)


def bert(n_players: int, n_samples: int) -> Iterator[Case]:
    """Give a BERT of six layers, 384 features, with sentences of 24 to 32 tokens."""
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=1000, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    net = BertForSequenceClassification(config)
    ids = torch.randint(110, 1000, (n_samples, 32))
    attention = torch.ones_like(ids)
    for sample in range(1, n_samples):
        attention[sample, 32 - sample % 8 :] = 0
    probe = Probe({"input_ids": ids, "attention_mask": attention}, torch.arange(n_samples) % 2)
    vocabulary = [f"word{i}" for i in range(1000)]
    embedding, inner = "bert.embeddings.word_embeddings", "bert.encoder.layer.1"

    def around(masked: Tensor, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        key = "inputs_embeds" if masked.is_floating_point() else "input_ids"
        return {key: masked, "attention_mask": inputs["attention_mask"].expand(len(masked), -1).contiguous()}

    def after_two_layers(hidden: Tensor) -> Tensor:
        for layer in net.bert.encoder.layer[2:]:
            given = layer(hidden)
            hidden = given if isinstance(given, Tensor) else given[0]
        return net.classifier(net.bert.pooler(hidden))

    for layer, baseline in ((None, 103), (embedding, 0.0)):
        words = Words(vocabulary, n_players=n_players, layer=layer, baseline=baseline)
        yield Case("BERT, 6 layers, 32 tokens", net, probe, words, lambda ready: net(**ready), around)
    words = Words(vocabulary, n_players=n_players, layer=inner, baseline=0.0)
    yield Case("BERT, 6 layers, 32 tokens", net, probe, words, after_two_layers)
