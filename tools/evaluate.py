"""The same as ``sr-nas evaluate``."""

from sr_nas.cli import tool

if __name__ == "__main__":
    tool("evaluate")
