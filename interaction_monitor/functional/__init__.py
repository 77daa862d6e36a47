"""Pure tensor mathematics of interactions: no Lightning, no files, no models."""
