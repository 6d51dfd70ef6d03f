"""Shared by all packages: errors, atomic files, addresses, exit codes, properties of this machine."""
