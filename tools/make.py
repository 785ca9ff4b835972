"""The same as ``sr-nas make``."""

from sr_nas.cli import tool

if __name__ == "__main__":
    tool("make")
