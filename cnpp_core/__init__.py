"""The core: pure PyTorch, without ComfyUI and without the annotators."""
