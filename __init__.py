"""ControlNet++ for ComfyUI: the host's way into the pack, and nothing else."""

import logging

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Return the extension that lists the nodes.

    The nodes are imported here and not above, so that tests, the demo and the command line can
    import this package without ComfyUI.
    """
    try:
        from .nodes import ControlNetPlusPlusExtension
    except Exception:
        logging.getLogger(__name__).exception("ControlNet++ could not be loaded")
        raise  # the host reports it too, but without the traceback
    return ControlNetPlusPlusExtension()
