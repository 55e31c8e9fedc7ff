"""The networks: blocks, ControlNet, and a UNet with its injection points."""
