"""The output folder of a run: its layout, jobs, records, their store, selection, lock, copy."""
