"""Sections of the report on the results themselves."""
