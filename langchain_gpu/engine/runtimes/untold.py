"""OpenVINO's tools, without their reports to the vendor.

The converter and the quantizer send what they did to an analytics server unless the user opted out,
and write an identification into the home folder. Nothing this package does is told to anybody.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.RLock()


@contextmanager
def untold() -> Iterator[None]:
    """Use OpenVINO's tools as if the user had declined their telemetry, one thread at a time."""
    try:
        from openvino_telemetry import main
        from openvino_telemetry.utils.opt_in_checker import ConsentCheckResult
    except ImportError:  # without that package the tools report nothing
        yield
        return
    checker, sender = main.OptInChecker, main.TelemetrySender
    with _lock:
        check, send = checker.check, sender.send
        # An object that was made earlier, with consent, sends; a new one asks for consent first.
        checker.check = lambda *_, **__: ConsentCheckResult.DECLINED
        sender.send = lambda *_, **__: None
        try:
            yield
        finally:
            checker.check, sender.send = check, send


__all__ = ["untold"]
