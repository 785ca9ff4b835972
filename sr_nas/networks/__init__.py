"""The networks people train and ship: plain modules, one file per family."""
