"""The search algorithm, independent of spaces, data and tasks."""
