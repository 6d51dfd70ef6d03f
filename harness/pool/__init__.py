"""Resident worker groups on Ray that train jobs; they know no DNA and no model."""
