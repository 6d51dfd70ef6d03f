"""DeepSEA's data from its MATLAB files."""
