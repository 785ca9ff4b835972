"""sr_nas: search, train, measure, export and run small super-resolution networks."""

__version__ = "0.1.0"
