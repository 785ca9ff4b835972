"""The same as ``sr-nas train``."""

from sr_nas.cli import tool

if __name__ == "__main__":
    tool("train")
