"""The same as ``sr-nas analyze``."""

from sr_nas.cli import tool

if __name__ == "__main__":
    tool("analyze")
