"""The search algorithm: alpha, its objective, the bilevel gradient and the loop; independent of spaces, data and tasks."""
