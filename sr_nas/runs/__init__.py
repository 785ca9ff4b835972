"""What every long run needs: folder, checkpoints, processes, clean stops, device and memory."""
