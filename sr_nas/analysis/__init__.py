"""Comparisons of models and of searches: the model table, sweeps, seeds, and the figures and tables of SA-DARTS."""
