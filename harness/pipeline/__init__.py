"""One benchmark from its plan to its leaderboard."""
