"""The same as ``sr-nas inference``."""

from sr_nas.cli import tool

if __name__ == "__main__":
    tool("inference")
