"""Training a network: weights to begin with, modes, states and losses, the trainer."""
