"""Networks of super-resolution and their search spaces, one file per family."""
