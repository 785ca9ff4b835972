"""The same as ``sr-nas models``."""

from sr_nas.cli import tool

if __name__ == "__main__":
    tool("models")
