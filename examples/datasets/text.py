"""Sentences."""

from __future__ import annotations

import json
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.datasets._data import Data, make, read, reading
from interaction_monitor.players.words import STOP_WORDS

SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]")


def sst2(
    data: str | Path | None,
    *,
    tokenizer: Any = None,
    longest: int = 64,
    n_train: int | None = None,
    wrong_labels: float = 0.0,
    seed: int = 0,
) -> Data:
    """Load SST-2 from the folder's `sst2`: token ids (L,), 0 is padding; tested on the development set.

    Args:
        data: the folder.
        tokenizer: a Hugging Face tokenizer; None makes a vocabulary of the words that the training set has at least
            twice.
        longest: tokens that are kept of a sentence.
        n_train: training sentences, which are mostly parts of sentences.
        wrong_labels: the share whose label is drawn anew.
        seed: decides which.
    """
    train, train_labels = _sentences(data, "train")
    test, test_labels = _sentences(data, "dev")
    vocabulary: tuple[str, ...] = ()
    if tokenizer is None:
        counts = Counter(word for sentence in train for word in sentence.split())
        vocabulary = (*SPECIAL, *(word for word, count in counts.items() if count > 1))
        ids = _word_ids(train, vocabulary, longest), _word_ids(test, vocabulary, longest)
    else:
        ids = _token_ids(train, tokenizer, longest), _token_ids(test, tokenizer, longest)
    return make(
        (ids[0], train_labels),
        (ids[1], test_labels),
        ("negative", "positive"),
        n_train=n_train,
        wrong_labels=wrong_labels,
        seed=seed,
        vocabulary=vocabulary,
    )


@dataclass(frozen=True)
class Prompt:
    text: str
    players: tuple[str, ...]  # the ten words that may be masked
    following: str  # the word that the document goes on with, or the class of a sentence


def sst2_sentences(data: str | Path | None, *, n_players: int = 10, seed: int = 0) -> list[Prompt]:
    """Load the sentences of SST-2's development set that have enough words of meaning, of which some are drawn.

    Args:
        data: the folder.
        n_players: words that are drawn.
        seed: decides which, and the order of the sentences.
    """
    sentences, labels = _sentences(data, "dev")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(sentences), generator=generator).tolist()
    words = [sentences[at].split() for at in order]
    classes = [("negative", "positive")[int(labels[at])] for at in order]
    chosen = [_chosen(row, n_players, generator) for row in words]
    return [
        Prompt(" ".join(row), players, name)
        for row, players, name in zip(words, chosen, classes, strict=True)
        if players is not None
    ]


def squad(data: str | Path | None, *, n_players: int = 10, seed: int = 0) -> list[Prompt]:
    """Load the 1,000 prompts, made from SQuAD's documents, of Chen et al. 2024, from the folder's `squad`.

    Or make such prompts from SQuAD as it is published, `squad/train-v1.1.json` or `squad/dev-v1.1.json`, by the rules
    of Chen et al. 2024, Appendix O: the first 30 words of each paragraph, or as many more as it takes for a next word
    that is no stop word and does not begin a sentence; and words of meaning drawn as players.

    Args:
        data: the folder.
        n_players: words that are drawn, of the chosen ones where there are these; paragraphs with fewer are left out.
        seed: decides which.
    """
    for name in ("train-v1.1.json", "dev-v1.1.json"):
        if data is not None and (Path(data) / "squad" / name).exists():
            content = read(data, f"squad/{name}")
            with reading(f"squad/{name}"):
                articles = json.loads(content)["data"]
                texts = [part["context"] for article in articles for part in article["paragraphs"]]
            return _prompts(texts, n_players, seed)
    texts, following = _lines(data, "squad/sentence.txt"), _lines(data, "squad/predict.txt")
    listed = read(data, "squad/player_words.json")
    with reading("squad/player_words.json"):
        chosen: list[list[str]] = json.loads(listed)
    if not len(texts) == len(following) == len(chosen):
        raise ValueError(
            f"squad has {len(texts)} lines in sentence.txt, {len(following)} in predict.txt and {len(chosen)} lists in "
            "player_words.json, but must have as many of each; get the files again"
        )
    for number, (text, words) in enumerate(zip(texts, chosen, strict=True), start=1):
        if lacking := [word for word in words if word not in text]:
            raise ValueError(f"line {number} of squad/sentence.txt lacks its word {lacking[0]!r}; get the files again")
    generator = torch.Generator().manual_seed(seed)
    return [
        Prompt(text, tuple(words[at] for at in _drawn(len(words), n_players, generator)), word)
        for text, words, word in zip(texts, chosen, following, strict=True)
        if len(words) >= n_players
    ]


def _prompts(texts: Sequence[str], n_players: int, seed: int) -> list[Prompt]:
    generator = torch.Generator().manual_seed(seed)
    prompts = []
    for words in (text.split() for text in texts):
        length = next((at for at in range(30, len(words)) if _follows(words, at)), None)
        players = None if length is None else _chosen(words[:length], n_players, generator)
        if players is not None and length is not None:
            prompts.append(Prompt(" ".join(words[:length]), players, words[length]))
    return prompts


def _chosen(words: Sequence[str], n_players: int, generator: torch.Generator) -> tuple[str, ...] | None:
    """Draw words of meaning, in their order; None if there are too few."""
    meaningful = [at for at, word in enumerate(words) if _means(word)]
    if len(meaningful) < n_players:
        return None
    return tuple(words[meaningful[at]] for at in _drawn(len(meaningful), n_players, generator))


def _drawn(n: int, n_players: int, generator: torch.Generator) -> list[int]:
    return torch.randperm(n, generator=generator)[:n_players].sort().values.tolist()


def _follows(words: Sequence[str], at: int) -> bool:
    """Whether a word has a meaning, and none of the five before it ends a sentence."""
    return _means(words[at]) and not any(word.endswith((".", "!", "?")) for word in words[at - 5 : at])


def _means(word: str) -> bool:
    bare = word.strip(string.punctuation).lower()
    return any(letter.isalpha() for letter in bare) and bare not in STOP_WORDS


def _lines(data: str | Path | None, name: str) -> list[str]:
    """Return the lines of a file; a text may hold what `splitlines` would take for the end of one."""
    content = read(data, name)
    with reading(name):
        return [line.rstrip("\r") for line in content.decode("utf-8-sig").removesuffix("\n").split("\n")]


def _sentences(data: str | Path | None, part: str) -> tuple[list[str], Tensor]:
    # Quotes are words here, so this is not the csv module's business.
    heading, *lines = _lines(data, f"sst2/{part}.tsv")
    if heading.rpartition("\t")[2].strip() in ("0", "1"):
        raise ValueError(f"sst2/{part}.tsv must begin with a heading, but begins with {heading!r}; put one there")
    pairs = [line.rpartition("\t")[::2] for line in lines if line.strip()]
    for sentence, label in pairs:
        if label.strip() not in ("0", "1"):
            line = f"{sentence} {label}".strip()
            raise ValueError(f"sst2/{part}.tsv must have sentence, tab, 0 or 1 in each line, but has {line!r}")
    if not pairs:
        raise ValueError(f"sst2/{part}.tsv has no sentence; get it again")
    return [sentence.strip() for sentence, _ in pairs], torch.tensor([int(label) for _, label in pairs])


def _word_ids(sentences: Sequence[str], vocabulary: Sequence[str], longest: int) -> Tensor:
    number = {word: place for place, word in enumerate(vocabulary)}
    unknown, first, last = number["[UNK]"], number["[CLS]"], number["[SEP]"]
    rows = [[number.get(word, unknown) for word in sentence.split()[: longest - 2]] for sentence in sentences]
    width = max(map(len, rows)) + 2
    return torch.tensor([[first, *row, last] + [0] * (width - 2 - len(row)) for row in rows])


def _token_ids(sentences: Sequence[str], tokenizer: Any, longest: int) -> Tensor:
    batch = tokenizer(list(sentences), padding=True, truncation=True, max_length=longest, return_tensors="pt")
    ids: Tensor = batch["input_ids"]
    return ids
