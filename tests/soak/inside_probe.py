"""What changes over hours on a board, planted inside of a real probe where it calls the runtime, within seconds.

A JSON file says what each model's inferences do: take ``base`` seconds more, from ``began`` (UTC) on
``drift`` of it more each ``over`` seconds, and keep ``leak`` bytes each. ``sitecustomize.py`` of
``tests/e2e/inside_probes`` installs this.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from monitor import wire


def install(file: Path) -> None:
    """Have the session of every model do what ``file`` says of it."""
    decode = wire.decode_request

    def decode_request(payload: bytes) -> wire.Request:
        request = decode(payload)
        if isinstance(request, wire.Open):
            _plant(json.loads(file.read_text()).get(request.spec.name, {}))
        return request

    wire.decode_request = decode_request


def _plant(planted: dict[str, float]) -> None:
    from onnxruntime import InferenceSession

    run = InferenceSession.run_with_iobinding
    held: list[bytes] = []

    def slower(*arguments: Any, **more: Any) -> Any:
        answer = run(*arguments, **more)
        passed = (time.time() - planted.get("began", 0.0)) / planted.get("over", 1.0)
        time.sleep(planted.get("base", 0.0) * (1 + planted.get("drift", 0.0) * max(passed, 0.0)))
        if size := int(planted.get("leak", 0)):
            held.append(b"\x01" * size)
        return answer

    InferenceSession.run_with_iobinding = slower
