"""Where image pairs come from: one file per source, found by its registered name.

A source is a function whose keyword arguments are its options; it returns :class:`sr_nas.data.pairs.Pairs`.
"""
