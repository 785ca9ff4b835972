"""Classification: the NAS-Bench-201 and DARTS spaces on the same searcher, their data, training and validation."""
