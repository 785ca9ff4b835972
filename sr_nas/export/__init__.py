"""Networks in files: our self-describing formats, graphs for other runtimes, and weights that others have released."""
