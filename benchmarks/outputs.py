"""Masked outputs of a small CNN at several epochs of training on scikit-learn's digits, for the benchmarks."""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

N_PLAYERS = 10
CENTRE = 6  # the inner cells of the 8x8 feature map, 6 x 6 of them, from which players are drawn


def digits_outputs(
    epochs: tuple[int, ...],
    *,
    n_train: int = 1200,
    wrong_labels: float = 0.05,
    n_samples: int = 50,
    n_players: int = N_PLAYERS,
    seed: int = 0,
) -> dict[int, Tensor]:
    """Train, and mask the feature map after the second ReLU: {epoch: (n_samples, 2^n) log-odds of the true class}."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    digits = load_digits()
    images = torch.tensor(digits.images / 16, dtype=torch.float32).unsqueeze(1)
    targets = torch.tensor(digits.target)
    train, labels = images[:n_train], targets[:n_train].clone()
    wrong = torch.rand(n_train, generator=generator) < wrong_labels
    labels[wrong] = torch.randint(0, 10, (int(wrong.sum()),), generator=generator)
    probe, probe_targets = images[-n_samples:], targets[-n_samples:]

    before = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())
    after = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10))
    optimizer = torch.optim.SGD([*before.parameters(), *after.parameters()], lr=0.01, momentum=0.9)
    cells = [torch.randperm(CENTRE**2, generator=generator)[:n_players] for _ in range(n_samples)]
    present = (torch.arange(2**n_players)[:, None] >> torch.arange(n_players) & 1).float()

    @torch.no_grad()
    def measure() -> Tensor:
        outputs = []
        for image, target, chosen in zip(probe, probe_targets, cells, strict=True):
            mask = torch.ones(len(present), 8, 8)
            mask[:, chosen // CENTRE + 1, chosen % CENTRE + 1] = present
            inner = before(image[None])
            logits = torch.cat([after(inner * part[:, None]) for part in mask.split(4096)]).double()
            others = torch.arange(10) != target
            outputs.append(logits[:, target] - logits[:, others].logsumexp(-1))
        return torch.stack(outputs)

    measured = {}
    for epoch in range(max(epochs) + 1):
        if epoch in epochs:
            measured[epoch] = measure()
        for batch in torch.randperm(n_train, generator=generator).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(after(before(train[batch])), labels[batch]).backward()
            optimizer.step()
    return measured
