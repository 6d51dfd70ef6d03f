"""How far a benchmark is: the table, the line, and both over a job's output."""
