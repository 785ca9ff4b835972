"""Bridges to other toolkits: BasicSR, both ways, and spandrel."""
