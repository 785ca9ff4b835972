"""Whole runs, from options to a folder of results."""
