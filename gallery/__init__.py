"""Real training runs on which detection, stop rules and the papers' pictures are checked.

    python -m gallery list                 what there is
    python -m gallery train [PATTERN ...]  train what is not there yet; a finished run is skipped
    python -m gallery analyse              the tables of docs/gallery.md, from what is stored, without training
    python -m gallery figures              its pictures, likewise
"""
