"""The callbacks of the trainers: they decide when to measure, and carry data between a trainer and an observer."""
