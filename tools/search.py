"""The same as ``sr-nas search``."""

from sr_nas.cli import tool

if __name__ == "__main__":
    tool("search")
