#!/usr/bin/env python3
"""The door: `python run_benchmark.py --help`."""

from harness.cli import main

if __name__ == "__main__":
    main()
