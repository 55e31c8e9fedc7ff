"""Ctrl-C while a network is trained."""

from __future__ import annotations

import logging
import signal
import threading

log = logging.getLogger(__name__)


class Interrupt:
    """In this context Ctrl-C is noted, not raised: a step comes to its end first.

    Pressed once more it interrupts at once. Only Python's main thread hears of it; nobody does in a
    process that ignores it, as one in the background, or that handles it outside Python.
    """

    def __init__(self) -> None:
        self.pressed = False

    def __enter__(self) -> Interrupt:
        self.usual = signal.getsignal(signal.SIGINT)
        main = threading.current_thread() is threading.main_thread()
        self.heard = main and self.usual not in (signal.SIG_IGN, None)
        if self.heard:
            signal.signal(signal.SIGINT, self._press)
        return self

    def __exit__(self, *_: object) -> None:
        if self.heard:
            signal.signal(signal.SIGINT, self.usual)

    def _press(self, *_: object) -> None:
        self.pressed = True
        signal.signal(signal.SIGINT, self.usual)
        log.info("stopping after this step; Ctrl-C again stops at once")
