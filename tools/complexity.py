"""The same as ``sr-nas complexity``."""

from sr_nas.cli import tool

if __name__ == "__main__":
    tool("complexity")
