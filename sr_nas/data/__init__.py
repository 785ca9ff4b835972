"""Image pairs from files, their patches, and the endless resumable batches that searches and trainings read."""
