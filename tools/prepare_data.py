"""The same as ``sr-nas prepare_data``."""

from sr_nas.cli import tool

if __name__ == "__main__":
    tool("prepare_data")
