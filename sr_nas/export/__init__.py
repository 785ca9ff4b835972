"""Networks in files: our own self-describing format, and weights that others have released."""
