"""How fast and how good, against the alternatives: ``python -m benchmarks [name ...]``."""
