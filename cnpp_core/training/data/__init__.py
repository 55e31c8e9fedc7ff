"""Pictures, conditions and captions as batches to train on; whoever has them reads their files."""
