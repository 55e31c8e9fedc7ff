"""Records to train with, from files: fill50k's layout, folders of pictures, tar shards."""
