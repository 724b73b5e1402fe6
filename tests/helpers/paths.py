"""Where things are."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SHIPPED = ROOT / "modeling_captioner"
SHARED = ROOT.parent / "shared"
