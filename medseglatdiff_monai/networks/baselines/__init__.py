"""Networks of the literature that are compared with ours."""
