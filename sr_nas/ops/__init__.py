"""Building blocks: candidate operations, the mixed operation, super-resolution blocks."""
