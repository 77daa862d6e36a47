"""Metrics whose sums are in float64, also where the module that holds them moves to a device without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from interaction_monitor._float64 import float64_device


class Float64Metric(Metric):
    """A metric with states in float64; they stay on the CPU where the metric's device has no float64."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.set_dtype(torch.float64)

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        device = fn(torch.zeros(1, device=self.device)).device
        staying = exclude_state if float64_device(device) == device else tuple(self._defaults)
        return super()._apply(fn, staying)
