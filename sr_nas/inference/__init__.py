"""Whole images through a network: tiles, pixels of every kind, folders of files."""
