"""What every package uses: errors, atomic files, addresses, exit codes, this machine."""
