"""Plain networks to train and ship, one file per family."""
