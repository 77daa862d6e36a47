"""Training runs to watch, from a table of numbers to a language model: `python -m examples.NAME --help`."""
