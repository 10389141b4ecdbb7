"""An application as users write them: its own session, a tap beside ``run``, until it is told to end.

Arguments: the model, the samples' folder, and the soc_model of the accelerator, or ``cpu`` for a session that is
silently on the CPU: the provider's package is there, and never asked for.
"""

from __future__ import annotations

import sys
import time

import numpy as np
import onnxruntime as ort
import onnxruntime_qnn

from monitor.capture import InputTap, TappedSession


def session(path: str, target: str) -> ort.InferenceSession:
    """The application's session."""
    options = ort.SessionOptions()
    if target == "cpu":
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    ort.register_execution_provider_library("QNNExecutionProvider", onnxruntime_qnn.get_library_path())
    devices = [one for one in ort.get_ep_devices() if one.ep_name == "QNNExecutionProvider"][:1]
    options.add_provider_for_devices(devices, {"backend_path": onnxruntime_qnn.get_qnn_htp_path(), "soc_model": target})
    return ort.InferenceSession(path, options)


def main() -> None:
    """Call the model for ever."""
    path, folder, target = sys.argv[1:]
    tapped = TappedSession(session(path, target), InputTap(folder, rate=1.0))
    (wanted,) = tapped.get_inputs()
    random = np.random.default_rng(1)
    while True:
        tapped.run(None, {wanted.name: random.random(wanted.shape, dtype=np.float32)})
        time.sleep(0.002)


if __name__ == "__main__":
    main()
