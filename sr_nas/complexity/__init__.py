"""What a network costs: MACs and parameters (macs), receptive field, memory of activations, and the costs of a search (costs)."""
