"""Training of jobs: the engines that a worker of the pool runs."""
