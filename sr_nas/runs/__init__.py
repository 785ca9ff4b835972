"""What every long run needs: its folder, checkpoints that survive a kill, a clean stop, and a record of how it was made."""
