"""The training loop, its optimiser and schedule, checkpoints, and the sums that workers exchange."""
