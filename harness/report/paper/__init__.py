"""Sections of the report that compare with the paper's numbers."""
