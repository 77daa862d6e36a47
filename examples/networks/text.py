"""A small BERT."""

from __future__ import annotations

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
