"""Real training runs on which detection, stop rules and the papers' pictures are checked.

- `python -m gallery list` says what there is.
- `python -m gallery train [PATTERN ...]` trains what is not there yet; a finished run is skipped.
- `python -m gallery analyse` writes the tables of docs/gallery.md from what is stored, without training.
- `python -m gallery figures` draws its pictures, likewise.
"""
