"""Progress of a benchmark: live table, log line, and both transmitted through a job's output."""
