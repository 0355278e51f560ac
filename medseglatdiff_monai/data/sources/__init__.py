"""The data sets that `prepare` reads, one module each."""
