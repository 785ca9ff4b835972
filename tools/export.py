"""The same as ``sr-nas export``."""

from sr_nas.cli import tool

if __name__ == "__main__":
    tool("export")
