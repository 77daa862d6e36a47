"""Words of a sentence as players."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from interaction_monitor._checks import describe, require_whole
from interaction_monitor.loading import draw
from interaction_monitor.players.base import Baseline, Players, require_complete, resolve_baseline
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.players.vocabulary import (
    STOP_WORDS,
    group_words,
    has_letters,
    marks_of,
    mask_token_id,
    special_ids,
    text_of,
    tokens_of,
)
from interaction_monitor.probe import Probe


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
        """Draw the words of each sentence.

        Args:
            probe: samples with token ids (S, tokens), and an "attention_mask" where there is padding.
            activation: (1 or S, tokens, features) what `layer` gives; None if the ids are masked.
            seed: decides the draw.

        Returns:
            The players, with positions (tokens,), named by their words.

        Raises:
            ValueError: if no sentence has enough words, there is no mask token, or shapes do not fit.

        Warns:
            UserWarning: if some sentences have too few words.
        """
        key, ids = self._ids(probe)
        baseline = self._resolve(ids, activation)
        labels = torch.full(ids.shape, -1, dtype=torch.int64)
        names: list[tuple[str, ...]] = []
        for sample, words in enumerate(self._sentences(probe)):
            chosen = sorted(draw(len(words), self.n_players, seed, sample))
            names.append(tuple(words[place][0] for place in chosen))
            if len(words) >= self.n_players:
                for player, place in enumerate(chosen):
                    labels[sample, words[place][1]] = player
        drawn = PlayerMap(
            labels=labels,
            n_players=self.n_players,
            axes=(1,),
            baseline=baseline,
            layer=self.layer,
            input_key=None if self.layer else key,
            names=tuple(names),
        )
        return require_complete(drawn, "words that are no stop words")

    def available(self, probe: Probe) -> Tensor:
        """Count the words of each sentence that could be players, for instance to take only sentences with enough.

        Args:
            probe: as for `assign`.

        Returns:
            (S,) int64.

        Raises:
            ValueError: if shapes do not fit.

        Examples:
            >>> words = Words(["[PAD]", "[MASK]", "a", "film", "charm", "##ing", "."])
            >>> words.available(Probe(torch.tensor([[2, 4, 5, 3, 6], [2, 3, 6, 0, 0]])))
            tensor([2, 1])
        """
        return torch.tensor([len(words) for words in self._sentences(probe)])

    def suits(self, probe: Probe) -> Tensor:
        """Tell which sentences have enough words.

        Args:
            probe: as for `assign`.

        Returns:
            (S,) bool; all True where `word_ids` are given, which are of other samples, or where `assign` will refuse.
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
        special, marks = special_ids(self.vocabulary), marks_of(self.vocabulary)
        for sample, sentence in enumerate(ids.tolist()):
            attended = [True] * len(sentence) if attention is None else attention[sample].bool().tolist()
            usable = [seen and token not in special for token, seen in zip(sentence, attended, strict=True)]
            word_ids = None if self.word_ids is None else self.word_ids[sample].tolist()
            yield self._words(sentence, usable, word_ids, marks)

    def _words(
        self, sentence: Sequence[int], usable: Sequence[bool], word_ids: Sequence[int] | None, marks: str | None
    ) -> list[tuple[str, list[int]]]:
        """Return the text and the places of each word that may be a player."""
        tokens = tokens_of(self.vocabulary, sentence)
        groups: dict[int, list[int]] = {}
        for place, word in enumerate(word_ids or group_words(tokens, [not usual for usual in usable], marks=marks)):
            if usable[place] and word >= 0:
                groups.setdefault(word, []).append(place)
        found = [
            (text_of(self.vocabulary, [tokens[place] for place in places], marks=marks), places)
            for places in groups.values()
        ]
        return [(text, places) for text, places in found if self._means_something(text)]

    def _means_something(self, word: str) -> bool:
        return has_letters(word) and word.lower() not in self.stop_words

    def _resolve(self, ids: Tensor, activation: Tensor | None) -> float | Tensor:
        if self.layer is None:
            token = mask_token_id(self.vocabulary) if self.baseline is None else self.baseline
            if token is None:
                raise ValueError(
                    "the vocabulary has no mask token to replace absent words by: give baseline=<token id>, or mask "
                    "the embedding: layer=<its name>, baseline=<vector>"
                )
            return resolve_baseline(token, ids, n_samples=len(ids))
        if activation is None or activation.ndim != 3 or activation.shape[1] != ids.shape[1]:
            raise ValueError(
                f"Words needs a layer that gives (batch, {ids.shape[1]} tokens, features), but layer={self.layer!r} "
                f"gives {describe(activation)}"
            )
        baseline = 0.0 if self.baseline is None else self.baseline
        return resolve_baseline(baseline, activation, n_samples=len(ids))


def _require_vocabulary(vocabulary: Any) -> None:
    if hasattr(vocabulary, "convert_ids_to_tokens"):
        return
    tokens = not isinstance(vocabulary, (str, bytes, Mapping)) and hasattr(vocabulary, "__getitem__")
    if not tokens or not all(isinstance(token, str) for token in vocabulary):
        raise TypeError(
            f"Words(vocabulary={describe(vocabulary)}): give a Hugging Face tokenizer, or its tokens as strings in the "
            "order of their ids" + (", sorted(vocabulary, key=vocabulary.get)" * isinstance(vocabulary, Mapping))
        )
