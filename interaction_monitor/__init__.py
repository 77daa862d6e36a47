"""Watch the AND/OR interactions a neural network learns, order by order, while it trains."""

__version__ = "0.1.0"
