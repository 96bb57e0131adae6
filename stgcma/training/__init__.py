"""Training: the loop, optimiser and schedule, checkpoints, weight files, and the exchange between workers."""
