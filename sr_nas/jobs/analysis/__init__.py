"""The analyses of SA-DARTS, from the folders of searches."""
