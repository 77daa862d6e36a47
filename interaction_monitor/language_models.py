"""What causal language models need: the logits of one position only, and the token they expect.

No model library is imported: anything with Hugging Face's `get_output_embeddings()` works.
"""

from __future__ import annotations

import inspect
import math
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from interaction_monitor._checks import is_number, read_numbers, require_counts
from interaction_monitor.forward.model import (
    call_model,
    changed_output,
    device_of,
    eager_if_compiled,
    find_layer,
    logits_of,
)
from interaction_monitor.outputs import Output, resolve, score_of
from interaction_monitor.players.base import require_drawn
from interaction_monitor.players.player_map import PlayerMap
from interaction_monitor.probe import Inputs, Probe
from interaction_monitor.settings import ForwardContext, ForwardFunc
from interaction_monitor.state import undisturbed


def last_token_logits(model: nn.Module, inputs: Inputs) -> Tensor:
    """Run a causal language model and form the logits of each sentence's last token only: a `forward_func`.

    The hidden states are cut down before the output embedding, so that logits of all positions, times the
    coalitions, times the vocabulary, never exist. Nor are keys and values kept for words to come, unless the inputs
    ask for it.

    Args:
        model: has `get_output_embeddings()`, as Hugging Face's causal models do; it is called with the inputs as
            keyword arguments.
        inputs: a dict with "input_ids" (B, L) and, where there is padding on whichever side, "attention_mask" (B, L).

    Returns:
        (B, V).

    Raises:
        TypeError: if the model has no `get_output_embeddings()`, or the inputs are no dict.

    Examples:
        `masked_outputs(model, probe, players, output="next_token_log_odds", forward_func=last_token_logits)`
    """
    get_head: Any = getattr(model, "get_output_embeddings", None)
    head = get_head() if callable(get_head) else None
    if not isinstance(head, nn.Module) or not isinstance(inputs, dict):
        raise TypeError(
            f"last_token_logits needs a model with get_output_embeddings() and a dict of inputs, got "
            f"{type(model).__name__} and {type(inputs).__name__}; write a forward_func that returns the last logits"
        )
    attention = inputs.get("attention_mask")

    def cut(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden = args[0]
        if attention is None:
            return (hidden[:, -1:], *args[1:])
        places = torch.arange(attention.shape[1], device=hidden.device)
        last = (attention.to(hidden.device) * (places + 1)).argmax(1)
        return (hidden[torch.arange(len(hidden), device=hidden.device), last][:, None], *args[1:])

    keeps = "use_cache" in inspect.signature(model.forward).parameters
    handle = head.register_forward_pre_hook(cut)
    try:
        result = model(**({"use_cache": False} if keeps else {}) | inputs)
    finally:
        handle.remove()
    return logits_of(result, len(next(iter(inputs.values()))))[:, -1]


def most_probable(
    model: nn.Module,
    probe: Probe,
    *,
    forward_func: ForwardFunc | None = None,
    forward_context: ForwardContext = nullcontext,
) -> Probe:
    """Return the probe with what the model itself expects for each unmasked sample as target.

    Args:
        model: the network; it is left as it was.
        probe: the samples; their targets are replaced.
        forward_func: (model, inputs) -> logits (B, C), or (B, L, V), of which the last position counts. None takes
            `last_token_logits` for models that have `get_output_embeddings()`, and calls others as they are.
        forward_context: makes the context in which the model is called.

    Returns:
        The probe with targets (S,) int64.

    Examples:
        >>> net = nn.Linear(2, 3)
        >>> most_probable(net, Probe(torch.rand(5, 2))).targets.shape
        torch.Size([5])
    """
    device = device_of(model, probe.inputs)
    causal = callable(getattr(model, "get_output_embeddings", None))
    run = forward_func or (last_token_logits if causal else call_model)

    def predicted(sample: int) -> Tensor:
        # A copy of its own, as the forward may change it in place.
        inputs = probe.select([sample]).to(device).inputs
        with forward_context():
            logits = logits_of(run(model, inputs), 1)
        return (logits[:, -1] if logits.ndim == 3 else logits).argmax(1)

    with undisturbed(model) as kept, eager_if_compiled(model):
        found = [kept.run(partial(predicted, sample)) for sample in range(len(probe))]
    return Probe(probe.inputs, torch.cat(found).to(probe.device))


def read_baseline(path: str | Path) -> Tensor:
    """Read a baseline vector that the code of the papers' authors has learned for a language model's embedding.

    Their file holds the vector of each epoch; the last is taken. For `Words(layer=..., baseline=...)`.

    Args:
        path: a .npy file of (epochs, D) or (epochs, 1, D) numbers, such as their `baseline_embeds_list.npy`, or of one
            vector (D,), as `learn_baseline` gives it; or a tensor of such a shape in a .pth or .pt file.

    Returns:
        (D,) float32.

    Raises:
        ValueError: if the file holds something of another shape or kind, or a number in the vector is not finite.

    Examples:
        >>> import tempfile
        >>> import numpy as np
        >>> file = Path(tempfile.mkdtemp()) / "baseline_embeds_list.npy"
        >>> np.save(file, [[0.0, 0.0], [0.5, -1.0]])
        >>> read_baseline(file)
        tensor([ 0.5000, -1.0000])
    """
    vectors = read_numbers(path)
    if not vectors.numel() or vectors.ndim not in (1, 2, 3) or (vectors.ndim == 3 and vectors.shape[1] != 1):
        raise ValueError(f"{path} must hold (epochs, D), (epochs, 1, D) or (D,), but holds {tuple(vectors.shape)}")
    last = (vectors if vectors.ndim == 1 else vectors[-1]).reshape(-1).float()
    if not last.isfinite().all():
        raise ValueError(f"the last vector in {path} is not finite, so learning it failed; give that of another run")
    return last


def learn_baseline(
    model: nn.Module,
    probe: Probe,
    players: PlayerMap,
    *,
    output: str | Output = "next_token_log_odds",
    forward_func: ForwardFunc = last_token_logits,
    epochs: int = 100,
    rate: float = 1e-3,
    seed: int = 0,
) -> Tensor:
    """Learn the vector that stands for an absent word best: by which interactions of groups of words are smallest.

    As in the code of the papers' authors: E|v(A∪B∪C) - v(A∪C) - v(B∪C) + v(C)| over disjoint groups A and B of one to
    three words and C, all the others or any number of them, is made less by momentum SGD on the vector alone, with one
    draw a step where they take the mean of ten. It is a choice of what absence means, not a measurement: interactions
    by different baselines cannot be compared.

    Args:
        model: the network; it is left as it was, gradients included.
        probe: the samples, best others than those that are measured.
        players: their words, masked at a layer by a vector, from `assign_players` with `Words(layer=, baseline=)`;
            the vector is where learning starts.
        output: as for the monitor.
        forward_func: (model, inputs) -> logits, differentiable; the default is for causal language models.
        epochs: passes over the samples, a draw of groups for each.
        rate: of SGD; the authors' is 1e-3.
        seed: of the groups.

    Returns:
        (D,) of the layer's dtype, for `Words(layer=..., baseline=...)`.

    Raises:
        TypeError: if the players are not drawn.
        ValueError: if the players are fewer than two, of other samples, or not masked at a layer by one vector; if a
            number makes no sense; or if learning at this rate ends in NaN.

    Examples:
        >>> from interaction_monitor import assign_players
        >>> from interaction_monitor.players import Words
        >>> net = nn.Sequential(nn.Embedding(6, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2))
        >>> probe = Probe(torch.arange(1, 5).repeat(2, 1), torch.tensor([0, 1]))
        >>> words = Words([*"-abcde"], n_players=3, layer="0", baseline=torch.zeros(3), stop_words=())
        >>> drawn = assign_players(net, words, probe)
        >>> learn_baseline(net, probe, drawn, output="log_odds", forward_func=lambda m, x: m(x), epochs=2).shape
        torch.Size([3])
    """
    require_drawn("learn_baseline", probe, players)
    if len(players) != len(probe):
        raise ValueError(f"players are drawn for {len(players)} samples, but the probe has {len(probe)}")
    require_counts(1, epochs=epochs)
    if not (is_number(rate) and 0 < rate < math.inf):
        raise ValueError(f"rate must be a finite number above 0, but is {rate!r}; the authors' is 0.001")
    start = players.baseline
    if players.layer is None or not isinstance(start, Tensor) or start.numel() != start.shape[-1]:
        raise ValueError("players must be masked at a layer by one vector; draw them by Words(layer=, baseline=vector)")
    if players.n_players < 2:
        raise ValueError("players must be at least two, for groups of words to interact")
    device, compute, layer = device_of(model, probe.inputs), resolve(output), find_layer(model, players.layer)
    baseline = start.detach().to(device).clone().requires_grad_()
    learned = replace(players.to(device), baseline=baseline)
    optimizer = torch.optim.SGD([baseline], lr=rate, momentum=0.9)
    generator = torch.Generator().manual_seed(seed)

    def gradient(sample: int, coalitions: Tensor) -> Tensor:
        batch = probe.select([sample] * len(coalitions)).to(device)
        with torch.enable_grad():
            with changed_output(layer, str(players.layer), lambda x: learned.mask(x, sample, coalitions)):
                v = score_of(compute, logits_of(forward_func(model, batch.inputs), len(coalitions)), batch.targets)
            return torch.autograd.grad((v[0] - v[1] - v[2] + v[3]).abs(), [baseline])[0]

    with undisturbed(model) as kept, eager_if_compiled(model):
        for sample in [*range(len(probe))] * epochs:
            baseline.grad = kept.run(partial(gradient, sample, _groups(players.n_players, generator).to(device)))
            optimizer.step()
    if not baseline.isfinite().all():
        raise ValueError(f"rate={rate} ends in a vector that is not finite; give a lower one, or check the outputs")
    return baseline.detach().reshape(-1)


def _groups(n: int, generator: torch.Generator) -> Tensor:
    """Draw disjoint A, B, C, a third of the time C all the others; give A∪B∪C, A∪C, B∪C, C: (4,) bitmasks."""
    bits = 1 << torch.randperm(n, generator=generator)
    a = int(torch.randint(1, min(3, n - 1) + 1, (), generator=generator))
    b = int(torch.randint(1, min(3, n - a) + 1, (), generator=generator))
    others = n - a - b
    everything = bool(torch.rand((), generator=generator) < 1 / 3)
    c = others if everything else int(torch.randint(0, max(1, others), (), generator=generator))
    first, second, third = bits[:a].sum(), bits[a : a + b].sum(), bits[a + b : a + b + c].sum()
    return torch.stack((first + second + third, first + third, second + third, third))
