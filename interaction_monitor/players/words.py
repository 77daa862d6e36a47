"""Words of a sentence as players, put together from the tokens of the usual kinds of subword vocabularies."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from interaction_monitor._checks import describe, require_whole
from interaction_monitor.loading import draw
from interaction_monitor.players.base import Baseline, Players, require_complete
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Probe

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
_CONTINUES = "##"  # WordPiece marks the tokens that continue a word,
_BYTE_LEVEL = ("Ġ", "Ċ")  # byte-level BPE and SentencePiece mark those that begin one
_BEGINS = (*_BYTE_LEVEL, "▁")
_BYTE = re.compile("<0x([0-9A-F]{2})>")  # a byte of a character for which SentencePiece has no token


@dataclass(frozen=True, kw_only=True)
class Words(Players):
    """Whole words of tokenised sentences; all tokens of a word are masked together [Ren et al. 2024, F.3].

    Stop words, punctuation, special tokens and padding are never players. Attention masks stay as they are: a masked
    word is replaced, not removed. A sentence with fewer than `n_players` words to choose from is left out of the
    measurements, with a warning that names it; where a callback draws the samples, others are preferred.

    Args:
        vocabulary: a Hugging Face tokenizer, or the tokens as strings, index = id. Words are put together by the
            marks of WordPiece ("##"), byte-level BPE ("Ġ") or SentencePiece ("▁"); in a vocabulary without such marks
            each token is a word.
        n_players: how many words are drawn per sentence; 2**n_players masked forwards follow for each.
        layer: the dotted name of a layer whose output (B, tokens, features) is masked, for instance the token
            embedding; None masks the token ids.
        baseline: what absent words are replaced by. Without `layer`, a token id; the default is the mask token, whose
            embedding is then that of the network as it trains. With `layer`, a number, a vector (features,), or a
            callable (outputs (S, tokens, features)) -> vector, evaluated once; the default is zero.
        stop_words: lower-case words that are never players; the default keeps negations.
        word_ids: (S, tokens) which word each token belongs to, -1 for none, as fast tokenizers give it; for
            vocabularies with other marks. It must be made for the samples of the probe.
        input_key: which entry of a dict of inputs holds the token ids.

    Raises:
        ValueError: if `n_players` is less than 1.
        TypeError: if the vocabulary, the stop words, `word_ids` or `n_players` is of another kind.

    Examples:
        >>> words = Words(["[PAD]", "[MASK]", "a", "film", "charm", "##ing", "."], n_players=2)
        >>> drawn = words.assign(Probe({"input_ids": torch.tensor([[2, 4, 5, 3, 6]])}), None, seed=0)
        >>> drawn.names, drawn.labels.tolist(), drawn.baseline
        ((('charming', 'film'),), [[-1, 0, 0, 1, -1]], 1)
    """

    vocabulary: Any = field(kw_only=False, repr=False)
    n_players: int = 10
    layer: str | None = None
    baseline: Baseline | None = None  # type: ignore[assignment]  # None stands for the default of the kind
    stop_words: Collection[str] = field(default=STOP_WORDS, repr=False)
    word_ids: Tensor | None = field(default=None, repr=False)
    input_key: str = "input_ids"

    def __post_init__(self) -> None:
        require_whole(self, n_players=self.n_players)
        _require_vocabulary(self.vocabulary)
        if isinstance(self.stop_words, str) or not isinstance(self.stop_words, Collection):
            raise TypeError(f'Words(stop_words={self.stop_words!r}): give several words, such as {{"the", "a"}}')
        if not (self.word_ids is None or isinstance(self.word_ids, Tensor)):
            raise TypeError(
                f"Words(word_ids={describe(self.word_ids)}): give an integer tensor (samples, tokens), -1 for none"
            )
        if self.n_players < 1:
            raise ValueError(f"n_players={self.n_players} must be at least 1")

    def assign(self, probe: Probe, activation: Tensor | None = None, *, seed: int = 0) -> PlayerMap:
        """Draw the words of sentences of token ids (S, tokens), with positions (tokens,), as `Players.assign` says.

        Raises:
            ValueError: if no sentence has enough words, there is no mask token, or shapes do not fit.

        Warns:
            UserWarning: if some sentences have too few words.
        """
        key, ids = self._ids(probe)
        baseline: Baseline | None
        if self.layer is None:
            masked, baseline = ids, _mask_token_id(self.vocabulary) if self.baseline is None else self.baseline
            if baseline is None:
                raise ValueError(
                    "the vocabulary has no mask token to replace absent words by: give baseline=<token id>, or mask "
                    "the embedding: layer=<its name>, baseline=<vector>"
                )
        elif activation is None or activation.ndim != 3 or activation.shape[1] != ids.shape[1]:
            raise ValueError(
                f"Words needs a layer that gives (batch, {ids.shape[1]} tokens, features), but layer={self.layer!r} "
                f"gives {describe(activation)}"
            )
        else:
            key, masked, baseline = None, activation, 0.0 if self.baseline is None else self.baseline
        labels = torch.full(ids.shape, -1, dtype=torch.int64)
        names = []
        for sample, words in enumerate(self._sentences(probe)):
            chosen = [words[place] for place in sorted(draw(len(words), self.n_players, seed, sample))]
            names.append(tuple(text for text, _ in chosen))
            if len(chosen) == self.n_players:
                for player, (_, places) in enumerate(chosen):
                    labels[sample, places] = player
        drawn = self._map(labels, (1,), masked, key=key, baseline=baseline, names=names)
        return require_complete(drawn, "words that are no stop words")

    def available(self, probe: Probe) -> Tensor:
        """Count the words of each sentence that could be players, (S,) int64, as to take only those with enough.

        Args:
            probe: as for `assign`.

        Raises:
            ValueError: if shapes do not fit.

        Examples:
            >>> words = Words(["[PAD]", "[MASK]", "a", "film", "charm", "##ing", "."])
            >>> words.available(Probe(torch.tensor([[2, 4, 5, 3, 6], [2, 3, 6, 0, 0]])))
            tensor([2, 1])
        """
        return torch.tensor([len(words) for words in self._sentences(probe)])

    def suits(self, probe: Probe) -> Tensor:
        """Tell which sentences have enough words, as `Players.suits` says.

        All do where `word_ids` are given, which are of other samples, or where `assign` will refuse.
        """
        if self.word_ids is None:
            with suppress(ValueError):
                return self.available(probe) >= self.n_players
        return super().suits(probe)

    def _ids(self, probe: Probe) -> tuple[str | None, Tensor]:
        key, ids = probe.entry(self.input_key if isinstance(probe.inputs, dict) else None)
        if ids.ndim != 2 or ids.is_floating_point():
            raise ValueError(f"Words needs integer token ids (samples, tokens), got {describe(ids)} of {ids.dtype}")
        if self.word_ids is not None and self.word_ids.shape != ids.shape:
            raise ValueError(
                f"word_ids has the shape {tuple(self.word_ids.shape)}, but the token ids of the probe have "
                f"{tuple(ids.shape)}; make it for these samples"
            )
        return key, ids

    def _sentences(self, probe: Probe) -> Iterator[list[tuple[str, list[int]]]]:
        """Give the text and the places of the words of each sentence that may be players."""
        _, ids = self._ids(probe)
        attention = probe.inputs.get("attention_mask") if isinstance(probe.inputs, dict) else None
        special, marks = _special_ids(self.vocabulary), _marks_of(self.vocabulary)
        for sample, sentence in enumerate(ids.tolist()):
            attended = [True] * len(sentence) if attention is None else attention[sample].bool().tolist()
            usable = [seen and token not in special for token, seen in zip(sentence, attended, strict=True)]
            tokens = _tokens_of(self.vocabulary, sentence)
            if self.word_ids is None:
                numbers = group_words(tokens, [not usual for usual in usable], marks=marks)
            else:
                numbers = self.word_ids[sample].tolist()
            words: dict[int, list[int]] = {}
            for place, word in enumerate(numbers):
                if usable[place] and word >= 0:
                    words.setdefault(word, []).append(place)
            texts = [_text_of(self.vocabulary, [tokens[place] for place in places], marks) for places in words.values()]
            yield [
                (text, places)
                for text, places in zip(texts, words.values(), strict=True)
                if any(map(str.isalnum, text)) and text.lower() not in self.stop_words
            ]


def _require_vocabulary(vocabulary: Any) -> None:
    if hasattr(vocabulary, "convert_ids_to_tokens"):
        return
    tokens = not isinstance(vocabulary, (str, bytes, Mapping)) and hasattr(vocabulary, "__getitem__")
    if not tokens or not all(isinstance(token, str) for token in vocabulary):
        raise TypeError(
            f"Words(vocabulary={describe(vocabulary)}): give a Hugging Face tokenizer, or its tokens as strings in the "
            "order of their ids" + (", sorted(vocabulary, key=vocabulary.get)" * isinstance(vocabulary, Mapping))
        )


def _tokens_of(vocabulary: Any, ids: Sequence[int]) -> list[str]:
    if hasattr(vocabulary, "convert_ids_to_tokens"):
        return [str(token) for token in vocabulary.convert_ids_to_tokens(list(ids))]
    if ids and (min(ids) < 0 or max(ids) >= len(vocabulary)):
        raise ValueError(
            f"token ids go from {min(ids)} to {max(ids)}, but the vocabulary of Words has {len(vocabulary)} tokens"
        )
    return [str(vocabulary[token]) for token in ids]


def _special_ids(vocabulary: Any) -> set[int]:
    """Return the ids of tokens that stand for no text, such as [CLS] and <pad>."""
    if hasattr(vocabulary, "all_special_ids"):
        return set(vocabulary.all_special_ids)
    return {
        index
        for index, token in enumerate(vocabulary)
        if len(token) > 2 and (token[0] + token[-1]) in ("[]", "<>") and not _BYTE.fullmatch(token)
    }


def _mask_token_id(vocabulary: Any) -> int | None:
    if hasattr(vocabulary, "convert_ids_to_tokens"):
        found = getattr(vocabulary, "mask_token_id", None)
        return None if found is None else int(found)
    return next((index for index, token in enumerate(vocabulary) if token.lower() in ("[mask]", "<mask>")), None)


def _marks_of(vocabulary: Any) -> str | None:
    """Tell how words are marked: "bytes" (byte-level BPE), "beginnings" (SentencePiece), "" (not), None (not known)."""
    tokens: Iterable[str] = vocabulary.get_vocab() if hasattr(vocabulary, "get_vocab") else vocabulary
    if not hasattr(vocabulary, "get_vocab") and hasattr(vocabulary, "convert_ids_to_tokens"):
        return None
    # A mark alone may be the letter that it is.
    begins = [token[0] for token in tokens if len(token) > 1 and token.startswith(_BEGINS)]
    if not begins:
        return ""
    return "bytes" if sum(mark in _BYTE_LEVEL for mark in begins) > len(begins) / 2 else "beginnings"


def group_words(tokens: Sequence[str], special: Sequence[bool] | None = None, *, marks: str | None = None) -> list[int]:
    """Return for each token the number of the word it belongs to.

    WordPiece's "##" continues a word. Where tokens carry the marks of byte-level BPE ("Ġ") or SentencePiece ("▁"), a
    token without it continues the word before, except that punctuation stands alone. Otherwise each token is a word.

    Args:
        tokens: of one sentence.
        special: which of them stand for no text, and so alone.
        marks: how they mark words, as `_marks_of` tells; None takes the marks that the sentence has.

    Examples:
        >>> group_words(["un", "##believ", "##able", "!"])
        [0, 0, 0, 1]
        >>> group_words(["na", "Ã", "¯", "ve", "Ġfa", "Ã§", "ade"])  # naïve façade, in bytes
        [0, 0, 0, 0, 1, 1, 1]
    """
    if marks is None:
        marks = _marks_of(tokens) or ""
    parts = [_bytes(token, marks) for token in tokens]
    # Each byte that is of no character becomes one of its own.
    text = b"".join(parts).decode(errors="surrogateescape")
    of_letters = [letter.isalnum() for letter in text for _ in letter.encode(errors="surrogateescape")]
    ends = accumulate(map(len, parts))
    lettered = [any(of_letters[end - len(part) : end]) for part, end in zip(parts, ends, strict=True)]
    words: list[int] = []
    for place, token in enumerate(tokens):
        continues = token.startswith(_CONTINUES) and len(token) > len(_CONTINUES)
        if marks and not token.startswith(_BEGINS):
            continues = lettered[place] and lettered[place - 1]
        if special and (special[place] or special[place - 1]):
            continues = False
        words.append((words[-1] + (not continues)) if words else 0)
    return words


def _text_of(vocabulary: Any, tokens: Sequence[str], marks: str | None) -> str:
    if hasattr(vocabulary, "convert_tokens_to_string"):
        return str(vocabulary.convert_tokens_to_string(list(tokens))).strip()
    return b"".join(_bytes(token, marks) for token in tokens).decode(errors="replace").strip()


def _bytes(token: str, marks: str | None) -> bytes:
    """Return what a token stands for, a mark of a beginning being a space."""
    if marks == "bytes" and all(letter in _byte_of() for letter in token):
        return bytes(_byte_of()[letter] for letter in token)
    if byte := _BYTE.fullmatch(token):
        return bytes([int(byte[1], 16)])
    return token.removeprefix(_CONTINUES).replace("▁", " ").encode()


@cache
def _byte_of() -> dict[str, int]:
    """Return the byte that each letter of a byte-level token stands for [GPT-2, encoder.py, bytes_to_unicode]."""
    # Bytes that print stand for themselves, the others come from 256 on.
    printed = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printed]
    return {chr(byte): byte for byte in printed} | {chr(256 + place): byte for place, byte in enumerate(others)}
