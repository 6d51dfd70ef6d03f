"""Location of this program."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""Folder of the packages: the repository, or the installation."""
