"""Data sets made ready on disk: downloaded, unpacked, downscaled to LR, cropped, packed into LMDB, and checked."""
