"""What `caption.py`, the page and the trainer share: loading a captioner and captioning photos with it."""

import os

# onnxruntime 1.29 and later otherwise sends telemetry to its maker; it reads this before it loads the first graph.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
