"""What causal language models need: the logits of one position only, and the token they expect.

No model library is imported: anything with Hugging Face's `get_output_embeddings()` works.
"""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from interaction_monitor.forward.model import device_of, eager_if_compiled, logits_of
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

    Example:
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
    forward_func: ForwardFunc = last_token_logits,
    forward_context: ForwardContext = nullcontext,
) -> Probe:
    """Return the probe with what the model itself expects for each unmasked sample as target.

    Args:
        model: the network; it is left as it was.
        probe: the samples; their targets are replaced.
        forward_func: (model, inputs) -> logits (B, C), or (B, L, V), of which the last position counts. The default is
            for causal language models; `lambda model, x: model(x)` makes it the predicted class of a classifier.
        forward_context: makes the context in which the model is called.

    Returns:
        The probe with targets (S,) int64.

    Example:
        >>> net = nn.Linear(2, 3)
        >>> most_probable(net, Probe(torch.rand(5, 2)), forward_func=lambda model, x: model(x)).targets.shape
        torch.Size([5])
    """
    device = device_of(model, probe.inputs)

    def predicted(sample: int) -> Tensor:
        # A copy of its own, as the forward may change it in place.
        inputs = probe.select([sample]).to(device).inputs
        with forward_context():
            logits = logits_of(forward_func(model, inputs), 1)
        return (logits[:, -1] if logits.ndim == 3 else logits).argmax(1)

    with undisturbed(model) as kept, eager_if_compiled(model):
        found = [kept.run(partial(predicted, sample)) for sample in range(len(probe))]
    return Probe(probe.inputs, torch.cat(found).to(probe.device))


def read_baseline(path: str | Path) -> Tensor:
    """Read a baseline vector that the code of the papers' authors has learned for a language model's embedding.

    Their file holds the vector of each epoch; the last is taken. For `Words(layer=..., baseline=...)`.

    Args:
        path: a .npy file of (epochs, D) or (epochs, 1, D) numbers, such as their `baseline_embeds_list.npy`.

    Returns:
        (D,) float32.

    Raises:
        ValueError: if the file holds an array of another shape.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "baseline_embeds_list.npy"
        >>> np.save(file, [[0.0, 0.0], [0.5, -1.0]])
        >>> read_baseline(file)
        tensor([ 0.5000, -1.0000])
    """
    vectors = np.load(path, allow_pickle=False)
    if vectors.ndim not in (2, 3) or vectors[-1].size != vectors.shape[-1]:
        raise ValueError(f"{path} must hold (epochs, D) or (epochs, 1, D), but holds {vectors.shape}")
    return torch.from_numpy(vectors[-1].reshape(-1)).float()
