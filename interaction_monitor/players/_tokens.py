"""Token strings and the words they make up, for the usual kinds of subword vocabularies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CONTINUES = "##"  # WordPiece marks the tokens that continue a word,
BEGINS = ("Ġ", "Ċ", "▁")  # byte-level BPE and SentencePiece those that begin one


def tokens_of(vocabulary: Any, ids: Sequence[int]) -> list[str]:
    """Return the strings of token ids, from a Hugging Face tokenizer or a sequence of strings.

    Raises:
        ValueError: if an id is not in the vocabulary.
    """
    if hasattr(vocabulary, "convert_ids_to_tokens"):
        return [str(token) for token in vocabulary.convert_ids_to_tokens(list(ids))]
    if ids and (min(ids) < 0 or max(ids) >= len(vocabulary)):
        raise ValueError(
            f"token ids go from {min(ids)} to {max(ids)}, but the vocabulary of Words has {len(vocabulary)} tokens"
        )
    return [str(vocabulary[token]) for token in ids]


def special_ids(vocabulary: Any) -> set[int]:
    """Return the ids of tokens that stand for no text, such as [CLS] and <pad>."""
    if hasattr(vocabulary, "all_special_ids"):
        return set(vocabulary.all_special_ids)
    brackets = (("[", "]"), ("<", ">"))
    return {
        index
        for index, token in enumerate(vocabulary)
        if any(len(token) > 2 and token.startswith(left) and token.endswith(right) for left, right in brackets)
    }


def mask_token_id(vocabulary: Any) -> int | None:
    """Return the id of the mask token, or None if the vocabulary has none."""
    if hasattr(vocabulary, "convert_ids_to_tokens"):
        found = getattr(vocabulary, "mask_token_id", None)
        return None if found is None else int(found)
    return next((index for index, token in enumerate(vocabulary) if token.lower() in ("[mask]", "<mask>")), None)


def group_words(tokens: Sequence[str], special: Sequence[bool] | None = None) -> list[int]:
    """Return for each token the number of the word it belongs to.

    WordPiece's "##" continues a word. Where tokens carry the marks of byte-level BPE ("Ġ") or SentencePiece ("▁"), a
    token without it continues the word before, except that punctuation stands alone. Otherwise each token is a word.
    A special token stands alone.

    Example:
        >>> group_words(["un", "##believ", "##able", "!"])
        [0, 0, 0, 1]
        >>> group_words(["▁un", "believ", "able", "!"])
        [0, 0, 0, 1]
    """
    marked = any(token.startswith(BEGINS) for token in tokens)
    words: list[int] = []
    for place, token in enumerate(tokens):
        continues = token.startswith(CONTINUES) and len(token) > len(CONTINUES)
        if marked and not token.startswith(BEGINS):
            continues = has_letters(token) and has_letters(tokens[place - 1])
        if special and (special[place] or special[place - 1]):
            continues = False
        words.append((words[-1] + (not continues)) if words else 0)
    return words


def text_of(vocabulary: Any, tokens: Sequence[str]) -> str:
    """Return the text of a word's tokens."""
    if hasattr(vocabulary, "convert_tokens_to_string"):
        return str(vocabulary.convert_tokens_to_string(list(tokens))).strip()
    plain = [token.removeprefix(CONTINUES) for token in tokens]
    return "".join(token[1:] if token.startswith(BEGINS) else token for token in plain)


def has_letters(text: str) -> bool:
    """Tell whether a text has a letter or a digit, and is not punctuation alone."""
    return any(letter.isalnum() for letter in text)
