"""Where the channels of images and feature maps are: before height and width, or after them."""

from __future__ import annotations

import math

from torch import Tensor

from interaction_monitor.probe import Probe

_COLOURS = (1, 3, 4)
# How far the proportions of a map may be from those of the image: borders that convolutions cut off, odd sizes.
_ALIKE = math.log(1.6)
_EQUAL = math.log(1.05)


def image_is_channels_last(image: Tensor) -> bool:
    """Tell whether images (S, ., ., .) have as many channels as colours on the last axis, and not on the second."""
    return image.shape[3] in _COLOURS and image.shape[1] not in _COLOURS


def image_size(probe: Probe) -> tuple[int, int] | None:
    """Return height and width of the images among the inputs; None if there are none, or of several sizes."""
    inputs = probe.inputs.values() if isinstance(probe.inputs, dict) else [probe.inputs]
    sizes = {
        (x.shape[1], x.shape[2]) if image_is_channels_last(x) else (x.shape[2], x.shape[3])
        for x in inputs
        if x.ndim == 4
    }
    return sizes.pop() if len(sizes) == 1 else None


def map_is_channels_last(maps: Tensor, image: tuple[int, int] | None) -> bool | None:
    """Find out whether maps are (B, H, W, C) and not (B, C, H, W): their proportions are those of the image.

    Args:
        maps: (B, ., ., .).
        image: height and width of the image; None takes maps to be square.

    Returns:
        None where neither is likely. Where both are, channels come first, as in torch, unless the proportions are the
        image's with channels last alone.
    """
    first, last = (_distortion(maps.shape[a], maps.shape[a + 1], image or (1, 1)) for a in (2, 1))
    if image is None:
        return False if first <= last or last > 0 else None
    if min(first, last) > _ALIKE:
        return None
    return first > _ALIKE or last < _EQUAL < first


def _distortion(height: int, width: int, image: tuple[int, int]) -> float:
    return abs(math.log(image[0] / height) - math.log(image[1] / width))
