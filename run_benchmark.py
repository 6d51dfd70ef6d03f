#!/usr/bin/env python3
"""The door: `python run_benchmark.py --help`."""

if __name__ == "__main__":
    import sys

    import harness  # noqa: F401 - both from here, whatever is installed
    import lingo  # noqa: F401

    # This folder may be the one in which somebody works and has a `random.py`: libraries are not to be taken from it.
    if not sys.flags.safe_path:
        sys.path.append(sys.path.pop(0))
    from harness.cli.main import main

    main()
