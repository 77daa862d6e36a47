"""The networks of the examples: plain modules, with the layer to mask named in each docstring.

Wrapped into `examples.training.Classifier`, the names of all layers begin with "network.".
"""

from examples.networks.images import AlexNet, LeNet, ResNet20, Vgg, vgg11, vgg16
from examples.networks.points import DynamicGraph, PointNet
from examples.networks.tables import Perceptron
from examples.networks.text import BertTiny, ByLength, MiniLM

__all__ = [
    "AlexNet",
    "BertTiny",
    "ByLength",
    "DynamicGraph",
    "LeNet",
    "MiniLM",
    "Perceptron",
    "PointNet",
    "ResNet20",
    "Vgg",
    "vgg11",
    "vgg16",
]
