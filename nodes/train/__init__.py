"""Menu group "train": data, training and files of ControlNets."""

from . import data, network

NODES = [*network.NODES, *data.NODES]
