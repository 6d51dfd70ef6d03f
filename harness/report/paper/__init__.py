"""Sections of the report beside the numbers that the paper published."""
