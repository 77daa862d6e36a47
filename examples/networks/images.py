"""Convolutional networks for images of 28x28 or 32x32 pixels."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional


class LeNet(nn.Sequential):
    """LeNet-5 with ReLUs.

    Masked at `features.1`, the first ReLU, cut into 7x7 cells: a map as large as the image; without padding, as the
    papers' authors have it, four pixels less, of which 32x32 leave 28x28, cells of 4x4, and 400 features.
    """

    def __init__(self, n_classes: int = 10, *, channels: int = 1, size: int = 28, padding: int = 2) -> None:
        super().__init__()
        side = ((size + 2 * padding - 4) // 2 - 4) // 2
        self.features = nn.Sequential(
            *(nn.Conv2d(channels, 6, kernel_size=5, padding=padding), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, kernel_size=5), nn.ReLU(), nn.MaxPool2d(2)),
        )
        self.classifier = nn.Sequential(
            *(nn.Flatten(), nn.Linear(16 * side * side, 120), nn.ReLU()),
            *(nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, n_classes)),
        )


class AlexNet(nn.Sequential):
    """AlexNet for small images: its five convolutions, with a first one that keeps more of the image.

    Masked at `features.1`, the first ReLU: half as large as the image, cut into 8x8 cells.

    Args:
        n_classes: how many.
        channels: of the images.
        width: channels of the first layer; 64 is AlexNet's.
    """

    def __init__(self, n_classes: int = 10, *, channels: int = 3, width: int = 64) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.Conv2d(channels, width, kernel_size=5, stride=2, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(width, 3 * width, kernel_size=5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(3 * width, 6 * width, kernel_size=3, padding=1), nn.ReLU()),
            *(nn.Conv2d(6 * width, 4 * width, kernel_size=3, padding=1), nn.ReLU()),
            *(nn.Conv2d(4 * width, 4 * width, kernel_size=3, padding=1), nn.ReLU(), nn.AdaptiveMaxPool2d(2)),
        )
        self.classifier = nn.Sequential(
            *(nn.Flatten(), nn.Dropout(), nn.Linear(16 * width, 16 * width), nn.ReLU()),
            *(nn.Dropout(), nn.Linear(16 * width, 16 * width), nn.ReLU(), nn.Linear(16 * width, n_classes)),
        )
        he_initialization(self)


class Vgg(nn.Sequential):
    """A VGG for small images: 3x3 convolutions in blocks, each followed by pooling, and one linear layer.

    Masked at the second ReLU. In VGG-11 that is `features.4`, half as large as the image; in VGG-16 `features.3`,
    as large as the image. Both are cut into 8x8 cells. With `batch_norm`, they are `features.6` and `features.5`.

    Args:
        blocks: the convolutions of each block.
        n_classes: how many.
        channels: of the images.
        width: channels of the first block, doubled three times; 64 is VGG's.
        batch_norm: whether each convolution is followed by batch normalization.
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        n_classes: int = 10,
        *,
        channels: int = 3,
        width: int = 64,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for block, convolutions in enumerate(blocks):
            wide = width * min(2**block, 8)
            for _ in range(convolutions):
                layers += [nn.Conv2d(channels, wide, kernel_size=3, padding=1)]
                layers += [nn.BatchNorm2d(wide)] if batch_norm else []
                layers += [nn.ReLU()]
                channels = wide
            # Rounded up, so that 28x28 pixels are enough for five blocks.
            layers += [nn.MaxPool2d(2, ceil_mode=True)]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, n_classes))
        he_initialization(self)


def vgg11(n_classes: int = 10, *, channels: int = 3, width: int = 64, batch_norm: bool = False) -> Vgg:
    """Make VGG-11; masked at `features.4` (`features.6` with `batch_norm`)."""
    return Vgg((1, 1, 2, 2, 2), n_classes, channels=channels, width=width, batch_norm=batch_norm)


def vgg16(n_classes: int = 10, *, channels: int = 3, width: int = 64, batch_norm: bool = False) -> Vgg:
    """Make VGG-16; masked at `features.3` (`features.5` with `batch_norm`)."""
    return Vgg((2, 2, 3, 3, 3), n_classes, channels=channels, width=width, batch_norm=batch_norm)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut, which takes every other pixel and adds empty channels where it must."""

    def __init__(self, channels: int, wide: int, stride: int) -> None:
        super().__init__()
        self.stride, self.extra = stride, wide - channels
        self.conv1 = nn.Conv2d(channels, wide, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(wide)
        self.conv2 = nn.Conv2d(wide, wide, kernel_size=3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(wide)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.extra))
        return (shortcut + self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))).relu()


class ResNet20(nn.Sequential):
    """The ResNet-20 that was made for CIFAR-10.

    Masked at the image, or at `stem.2`, the first ReLU, as large as the image.
    """

    def __init__(self, n_classes: int = 10, *, channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        sizes = [(width, width, 1)] * 3 + [(width, 2 * width, 2)] + [(2 * width, 2 * width, 1)] * 2
        sizes += [(2 * width, 4 * width, 2)] + [(4 * width, 4 * width, 1)] * 2
        self.blocks = nn.Sequential(*(ResidualBlock(*size) for size in sizes))
        self.classifier = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, n_classes))
        he_initialization(self)


def he_initialization(network: nn.Module) -> None:
    """Start every layer with He's weights: with torch's own, deep networks without normalization hardly begin."""
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
