"""The same as ``sr-nas app``."""

from sr_nas.cli import tool

if __name__ == "__main__":
    tool("app")
