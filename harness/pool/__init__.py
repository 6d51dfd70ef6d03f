"""Resident worker groups on Ray that train jobs; independent of DNA and models."""
