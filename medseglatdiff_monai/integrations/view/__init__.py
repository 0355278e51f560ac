"""A local web page to look at ensembles: samples, consensus at any threshold, raters' masks beside them."""
