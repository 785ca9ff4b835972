"""The same as ``sr-nas latency``."""

from sr_nas.cli import tool

if __name__ == "__main__":
    tool("latency")
