"""Training a ControlNet: data, losses and the trainer."""
