"""A mutation check: how many small faults in the package the tests notice."""
