"""The only code that subclasses ComfyUI's classes."""
