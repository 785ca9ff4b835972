"""Images through a network: tiles, engines, whole files and folders."""
