"""Menu group "train": data, training and files of ControlNets."""

from . import data, network, training

NODES = [*network.NODES, *data.NODES, *training.NODES]
