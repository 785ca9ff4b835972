"""Search spaces: supernets with labelled choices, one file per space."""
