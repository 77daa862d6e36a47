"""See which interactions two encoders share that learned the sentiment of sentences about films.

    python -m examples.shared_sst2 --data FOLDER      # needs the extra "models"

The first task of Chen et al. 2024, with encoders that a CPU trains in minutes: one in BERT-Tiny's shape from scratch,
the other the first layers of the pretrained MiniLM. Both read the same word pieces; absent words are mask tokens.
"""

from __future__ import annotations

import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from examples import shared_steps, training
from examples.datasets import sst2
from examples.networks import BertTiny, MiniLM
from interaction_monitor import Probe
from interaction_monitor.comparison import Network, compare_networks
from interaction_monitor.players import Words


def main() -> None:
    options = shared_steps.options(__doc__, "shared_sst2", scratch=8000, pretrained=1500, samples=12, players=8)
    tokenizer = MiniLM.tokenizer()
    with training.refusals():
        data = sst2(options.data, tokenizer=tokenizer, longest=32)
    test = TensorDataset(*(tensor[:400] for tensor in data.test.tensors))
    words = Words(tokenizer, n_players=options.players)
    enough = (words.available(Probe(*data.test.tensors)) >= options.players).nonzero()[:, 0]
    with training.refusals():
        training.enough("--samples", options.samples, enough, f"test sentences of {options.players} words")
    probe = Probe.from_loader(DataLoader(Subset(data.test, enough.tolist())), options.samples)
    networks = []
    # name, how to build it, training sentences, epochs, learning rate
    plans = (
        ("BERT-Tiny's shape, from scratch", lambda: BertTiny(len(tokenizer)), options.scratch, 4, 5e-4),
        ("MiniLM, two layers, pretrained", MiniLM, options.pretrained, 2, 2e-4),
    )
    for seed, (name, build, n_train, epochs, learning_rate) in enumerate(plans):
        torch.manual_seed(seed)
        network = build()
        sentences = TensorDataset(*(tensor[:n_train] for tensor in data.train.tensors))
        shared_steps.train(network, sentences, epochs=epochs, learning_rate=learning_rate, batch=32)
        print(f"{name}: {shared_steps.accuracy(network, test):.1%} of the test sentences right", flush=True)
        networks.append(Network(network, probe, words, name=name))
    shared_steps.conclude(compare_networks(networks, alpha=options.alpha, normalize=True), options.out)


if __name__ == "__main__":
    main()
