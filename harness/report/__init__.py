"""The report of a run: results and the paper's published numbers. Reads only results."""
