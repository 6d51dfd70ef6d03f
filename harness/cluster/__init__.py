"""A benchmark on a cluster: machines up, the job there, results back."""
