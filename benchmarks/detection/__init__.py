"""Whether the latency verdict can be trusted: false events per model-month and detection delay, against rival rules.

``python -m benchmarks.detection --quick`` takes minutes; the whole run, which ``docs/detection.md`` shows, an evening.
"""
