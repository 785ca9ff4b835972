"""Networks of super-resolution: plain modules without search code, one file per family."""
