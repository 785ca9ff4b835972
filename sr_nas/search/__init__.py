"""The searcher. It knows labels, alphas and losses, and no search space, data set or task."""
