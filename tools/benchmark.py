"""The same as ``sr-nas benchmark``."""

from sr_nas.cli import tool

if __name__ == "__main__":
    tool("benchmark")
