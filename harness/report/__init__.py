"""The report of a run: what the records say, beside what the paper published. Reads results and nothing else."""
