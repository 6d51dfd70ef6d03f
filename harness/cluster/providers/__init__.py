"""Checks of each cloud before a machine is started."""
