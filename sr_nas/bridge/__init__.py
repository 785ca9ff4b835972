"""Doors to other toolkits."""
