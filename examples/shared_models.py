"""See which interactions two transformers of yours share: classifiers of sentiment, or language models.

python -m examples.shared_models --data FOLDER --models BERT_BASE BERT_LARGE
python -m examples.shared_models --data FOLDER --models LLAMA AQUILA --task next_word
python -m examples.shared_models --data FOLDER --models LLAMA OPT --task next_word --baselines A.npy B.npy

The first two tasks of Chen et al. 2024. Each model is a folder in Hugging Face's layout, as `save_pretrained` leaves
it. The players are words, the same for both models whatever their tokens. A classifier is asked for the log-odds of the
true class, absent words are its mask token; a language model for those of the word that it holds most probable, absent
words are the mean embedding. With --baselines they are a vector that was learned, for either. What is measured is kept
in --out, and the same command goes on from there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples import prompts, shared_steps, training
from examples.datasets import Prompt, squad, sst2_sentences
from interaction_monitor import Probe, assign_players
from interaction_monitor.comparison import compare_outputs
from interaction_monitor.comparison.several_networks import require_players
from interaction_monitor.forward import masked_outputs
from interaction_monitor.language_models import read_baseline
from interaction_monitor.players import Words

KINDS = {"sentiment": "SequenceClassification", "next_word": "CausalLM"}


def main(command: list[str] | None = None) -> None:
    parser = shared_steps.parser(__doc__, "shared_models", samples=200, players=10)
    parser.add_argument("--models", type=Path, nargs=2, required=True, help="the folders of two models")
    parser.add_argument("--task", choices=tuple(KINDS), default="sentiment")
    parser.add_argument("--baselines", type=Path, nargs=2, default=(None, None), help="a learned vector for each model")
    options = parser.parse_args(command)
    with training.refusals():
        require_players(options.players)
        vectors = [None if file is None else read_baseline(file) for file in options.baselines]
        load = sst2_sentences if options.task == "sentiment" else squad
        texts = load(options.data, n_players=options.players)
        training.enough("--samples", options.samples, texts, f"texts of {options.players} words")
        texts = texts[: options.samples]
        kept = []
        for number, (folder, file, vector) in enumerate(
            zip(options.models, options.baselines, vectors, strict=True), 1
        ):
            asked = json.dumps([str(folder), options.task, options.players, str(file)])
            place, begin = options.out / f"outputs_{number}.npz", partial(measuring, folder, options, vector)
            kept.append(prompts.measured_one_by_one(folder.name, texts, place, asked, begin))
    comparison = compare_outputs(
        torch.stack(kept),
        names=[folder.name for folder in options.models],
        alpha=options.alpha,
        normalize=True,
        player_names=tuple(text.players for text in texts),
    )
    shared_steps.conclude(comparison, options.out)


def measuring(folder: Path, options: argparse.Namespace, vector: Tensor | None) -> Callable[[Prompt], Tensor]:
    """Load the model of a folder, and give what measures the outputs of all coalitions of a text, (2^n,)."""
    model, tokenizer = prompts.of_folder(folder, KINDS[options.task])
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    features = model.get_input_embeddings().weight.shape[1]
    if vector is not None and len(vector) != features:
        raise ValueError(f"{folder} embeds words in {features} features, but its --baselines has {len(vector)}")
    if options.task == "sentiment":
        return lambda text: sentiment(model, tokenizer, text, options.players, baseline=vector)
    return lambda text: prompts.next_word_outputs(model, tokenizer, text, options.players, baseline=vector)[0]


def sentiment(model: Any, tokenizer: Any, text: Prompt, n_players: int, *, baseline: Tensor | None = None) -> Tensor:
    """Measure the log-odds of the true class; absent words are the mask token, or a vector in the place of theirs.

    Raises:
        ValueError: if the model does not tell two classes apart, or has no mask token.
    """
    if model.config.num_labels != 2 or (tokenizer.mask_token_id is None and baseline is None):
        raise ValueError(
            f"the model has {model.config.num_labels} classes and the mask token {tokenizer.mask_token}; "
            "give one that tells negative (0) from positive (1) and has a mask token, such as a fine-tuned BERT"
        )
    probe, chosen = prompts.tokenised([text], tokenizer)
    probe = Probe(probe.inputs, torch.tensor([int(text.following == "positive")]))
    if baseline is None:
        words = Words(tokenizer, n_players=n_players, word_ids=chosen, stop_words=(), input_key="input_ids")
    else:
        words = prompts.embedded_words(model, tokenizer, chosen, n_players, baseline)
    return masked_outputs(model, probe, assign_players(model, words, probe))[0].cpu()


if __name__ == "__main__":
    main()
