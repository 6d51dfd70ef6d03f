"""Tasks and their data: found, read, checked for leakage, tokenised once."""
