"""A benchmark on a cluster: starting machines, running the job there, downloading results."""
