"""ALFWorld: the text games of Shridhar et al. (2021), played by an engine of our own."""
