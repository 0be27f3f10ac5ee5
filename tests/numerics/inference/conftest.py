"""Makes `inference_support` importable for the tests of this folder."""

import sys
from pathlib import Path

SUPPORT = str(Path(__file__).resolve().parents[2])
if SUPPORT not in sys.path:
    sys.path.append(SUPPORT)
