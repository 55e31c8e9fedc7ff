"""From files, and from networks of ours, to the host's CONTROL_NET, MODEL, CLIP and VAE."""
