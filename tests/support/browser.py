"""Chromium without a window, for tests of pages."""

import shutil
import subprocess
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or ""
"""The program; empty where there is none."""

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def browse(folder: Path, *arguments: str) -> str:
    """What the program prints with these arguments; its profile is in `folder`."""
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return done.stdout


def page(address: str, folder: Path) -> str:
    """The document as a browser has it after its scripts, which may take 30 s of its own time."""
    return browse(folder, "--window-size=1600,1200", "--virtual-time-budget=30000", "--dump-dom", address)
