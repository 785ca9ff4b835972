"""Image pairs, the patches drawn from them, and the endless streams of batches that a search or a training reads."""
