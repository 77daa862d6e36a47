"""What the examples of shared interactions have in common: training a network, and telling what came out."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from examples import training
from interaction_monitor.comparison import Comparison
from interaction_monitor.plots import comparison_figures, comparison_text


def options(description: str | None, out: str, **defaults: int) -> argparse.Namespace:
    """Read the command line: `--data`, `--out`, `--alpha` and a number for each default."""
    return parser(description, out, **defaults).parse_args()


def parser(description: str | None, out: str, **defaults: int) -> argparse.ArgumentParser:
    """Make what reads the command line, for further options."""
    made = argparse.ArgumentParser(description=(description or "").splitlines()[0])
    made.add_argument("--data", type=Path, help="folder with the public data sets")
    made.add_argument("--out", type=training.folder, default=Path("runs") / out)
    alpha = training.number(float, "0 or more", lambda x: 0 <= x < float("inf"))
    made.add_argument("--alpha", type=alpha, default=0.1, help="penalty on an interaction in each network")
    count = training.number(int, "1 or more", lambda x: x >= 1)
    for name, value in defaults.items():
        made.add_argument(f"--{name}", type=count, default=value)
    return made


def train(network: nn.Module, data: TensorDataset, *, epochs: int, learning_rate: float, batch: int = 64) -> None:
    """Train a classifier by Adam, and leave it in eval mode."""
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    network.train()
    for _ in range(epochs):
        for x, y in DataLoader(data, batch_size=batch, shuffle=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x), y).backward()
            optimizer.step()
    network.eval()


@torch.no_grad()
def accuracy(network: nn.Module, data: TensorDataset) -> float:
    right: list[Tensor] = [network(x).argmax(dim=1) == y for x, y in DataLoader(data, batch_size=200)]
    return float(torch.cat(right).float().mean())


def conclude(comparison: Comparison, out: Path) -> None:
    """Print the tables, save the pictures and write a TensorBoard run."""
    print(f"\n{comparison_text.table(comparison)}\n")
    print("\n".join([comparison_text.verdict(comparison), *comparison_text.findings(comparison)]))
    out.mkdir(parents=True, exist_ok=True)
    pictures = comparison_figures.draw_all(comparison)
    for name, picture in pictures.items():
        (out / f"{name}.png").write_bytes(picture)
    comparison_text.write_comparison(comparison, out, pictures=pictures)
    print(f"\nPictures and a TensorBoard run: {out}")
