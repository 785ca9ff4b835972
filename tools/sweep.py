"""The same as ``sr-nas sweep``."""

from sr_nas.cli import tool

if __name__ == "__main__":
    tool("sweep")
