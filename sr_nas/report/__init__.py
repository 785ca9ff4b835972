"""What a person sees of a search or a training run: progress, plots, comparison pictures."""
