"""The same as ``sr-nas report``."""

from sr_nas.cli import tool

if __name__ == "__main__":
    tool("report")
