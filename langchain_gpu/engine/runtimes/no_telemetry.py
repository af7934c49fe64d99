"""OpenVINO's tools and ONNX Runtime without their telemetry.

OpenVINO's converter and quantizer, and ONNX Runtime from its first session on, send what they did
to an analytics server unless the user opted out, and write an identification into the home folder.
Nothing this package does is told to anybody.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_lock = threading.RLock()
_SWITCH = "ORT_DISABLE_TELEMETRY"


@contextmanager
def without_telemetry() -> Iterator[None]:
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


@contextmanager
def importing_without_telemetry() -> Iterator[None]:
    """Import ONNX Runtime in here, as if the user had declined its telemetry.

    A choice of the user, by the variable that ONNX Runtime reads, stays what it is. Where somebody
    has imported it already, it ends its reports but for the first, which it may have sent.
    """
    if _SWITCH in os.environ:
        yield
        return
    with _lock:
        os.environ[_SWITCH] = "1"  # read once, by the import; other processes are not ours to set
        try:
            yield
        finally:
            os.environ.pop(_SWITCH, None)
    runtime = sys.modules.get("onnxruntime")
    if runtime is not None:
        runtime.disable_telemetry_events()


__all__ = ["importing_without_telemetry", "without_telemetry"]
