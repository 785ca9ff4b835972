"""Sets of labelled images. To add one, register a function here; ``part`` is ``"train"`` or ``"test"``."""
