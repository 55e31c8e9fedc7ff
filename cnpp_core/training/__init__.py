"""Training a network: weights to begin with, the diffusion loss, the trainer."""
