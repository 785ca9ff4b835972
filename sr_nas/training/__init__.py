"""Training a derived network."""
