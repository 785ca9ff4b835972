"""Analyses of searches: the figures and tables of SA-DARTS from the histories of searches in any space."""
