"""Token strings and the words they make up, for the usual kinds of subword vocabularies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

# Negations (no, not, never, n't) are left out on purpose: they turn the meaning of what they stand with.
STOP_WORDS = frozenset(
    """
    a about above after again all also although am an and any are as at be because been before being below between both
    but by can could did do does doing down during each either else ever few for from further had has have having he her
    here hers herself him himself his how however i if in into is it its itself just ll may me might mine more most much
    must my myself of off on once one only onto or other ought our ours ourselves out over own per quite rather re same
    shall she should since so some such than that the their theirs them themselves then there these they this those
    though through thus to too under until up upon us ve very was we were what when where whether which while who whom
    whose why will with within would yet you your yours yourself yourselves s t d m
    """.split()  # noqa: SIM905  # a paragraph is easier to read than a hundred quoted words
)


CONTINUES = "##"  # WordPiece marks the tokens that continue a word,
BYTE_LEVEL = ("Ġ", "Ċ")  # byte-level BPE and SentencePiece mark those that begin one
BEGINS = (*BYTE_LEVEL, "▁")
_BYTE = re.compile("<0x([0-9A-F]{2})>")  # a byte of a character for which SentencePiece has no token


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
        and not _BYTE.fullmatch(token)
    }


def mask_token_id(vocabulary: Any) -> int | None:
    """Return the id of the mask token, or None if the vocabulary has none."""
    if hasattr(vocabulary, "convert_ids_to_tokens"):
        found = getattr(vocabulary, "mask_token_id", None)
        return None if found is None else int(found)
    return next((index for index, token in enumerate(vocabulary) if token.lower() in ("[mask]", "<mask>")), None)


def marks_of(vocabulary: Any) -> str | None:
    """Tell how a vocabulary marks words: "bytes" (byte-level BPE), "beginnings" (SentencePiece) or "" (neither).

    None stands for a tokenizer that does not say what its tokens are.
    """
    tokens: Iterable[str] = vocabulary.get_vocab() if hasattr(vocabulary, "get_vocab") else vocabulary
    if not hasattr(vocabulary, "get_vocab") and hasattr(vocabulary, "convert_ids_to_tokens"):
        return None
    # A mark alone may be the letter that it is.
    begins = [token[0] for token in tokens if len(token) > 1 and token.startswith(BEGINS)]
    if not begins:
        return ""
    return "bytes" if sum(mark in BYTE_LEVEL for mark in begins) > len(begins) / 2 else "beginnings"


def group_words(tokens: Sequence[str], special: Sequence[bool] | None = None, *, marks: str | None = None) -> list[int]:
    """Return for each token the number of the word it belongs to.

    WordPiece's "##" continues a word. Where tokens carry the marks of byte-level BPE ("Ġ") or SentencePiece ("▁"), a
    token without it continues the word before, except that punctuation stands alone. Otherwise each token is a word.
    A special token stands alone.

    Args:
        tokens: of one sentence.
        special: which of them stand for no text.
        marks: see `marks_of`; None takes those that the sentence has.

    Examples:
        >>> group_words(["un", "##believ", "##able", "!"])
        [0, 0, 0, 1]
        >>> group_words(["▁un", "believ", "able", "!"])
        [0, 0, 0, 1]
        >>> group_words(["na", "Ã", "¯", "ve", "Ġfa", "Ã§", "ade"])  # naïve façade, in bytes
        [0, 0, 0, 0, 1, 1, 1]
    """
    if marks is None:
        marks = marks_of(list(tokens)) or ""
    texts = _characters(tokens, marks)
    words: list[int] = []
    for place, token in enumerate(tokens):
        continues = token.startswith(CONTINUES) and len(token) > len(CONTINUES)
        if marks and not token.startswith(BEGINS):
            continues = has_letters(texts[place]) and has_letters(texts[place - 1])
        if special and (special[place] or special[place - 1]):
            continues = False
        words.append((words[-1] + (not continues)) if words else 0)
    return words


def text_of(vocabulary: Any, tokens: Sequence[str], *, marks: str | None = None) -> str:
    """Return the text of a word's tokens."""
    if hasattr(vocabulary, "convert_tokens_to_string"):
        return str(vocabulary.convert_tokens_to_string(list(tokens))).strip()
    return b"".join(_bytes(token, marks) for token in tokens).decode(errors="replace").strip()


def _characters(tokens: Sequence[str], marks: str) -> list[str]:
    """Return for each token the characters of the sentence that it is, wholly or in part, made of."""
    parts = [_bytes(token, marks) for token in tokens]
    # Each byte that is of no character becomes one of its own.
    text = b"".join(parts).decode(errors="surrogateescape")
    owners = [place for place, part in enumerate(parts) for _ in part]
    found: list[list[str]] = [[] for _ in tokens]
    start = 0
    for letter in text:
        size = len(letter.encode(errors="surrogateescape"))
        for owner in dict.fromkeys(owners[start : start + size]):
            found[owner].append(letter)
        start += size
    return ["".join(letters) for letters in found]


def _bytes(token: str, marks: str | None) -> bytes:
    """Return what a token stands for, a mark of a beginning being a space."""
    if marks == "bytes" and all(letter in _byte_of() for letter in token):
        return bytes(_byte_of()[letter] for letter in token)
    byte = _BYTE.fullmatch(token)
    if byte:
        return bytes([int(byte[1], 16)])
    return token.removeprefix(CONTINUES).replace("▁", " ").encode()


@cache
def _byte_of() -> dict[str, int]:
    """Return the byte that each letter of a byte-level token stands for [GPT-2, encoder.py, bytes_to_unicode].

    Bytes that print stand for themselves, the others come from 256 on.
    """
    printed = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + place): byte for place, byte in enumerate(others)}


def has_letters(text: str) -> bool:
    """Tell whether a text has a letter or a digit, and is not punctuation alone."""
    return any(letter.isalnum() for letter in text)
