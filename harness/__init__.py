"""The benchmark service around `lingo`: configuration, data, search, worker pool, tracking, results."""
