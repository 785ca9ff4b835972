"""Data sets made ready on disk: fetched, unpacked, given LR images, cropped, packed and checked.

Nothing is ever half written under its final name, and each step goes on where it was stopped.
"""
