"""What is known of whole search spaces: the true accuracy of every network of NAS-Bench-201."""
