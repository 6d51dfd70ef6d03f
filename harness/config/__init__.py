"""What a person asks for: the benchmark, its search spaces, scopes and studies."""
