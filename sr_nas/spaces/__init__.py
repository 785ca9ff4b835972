"""Search spaces of super-resolution: supernets with labelled choices, one file per space."""
