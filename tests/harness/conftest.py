"""Fixtures of the service's tests."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # toy_engine, toy_model
