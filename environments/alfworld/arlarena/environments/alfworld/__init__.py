"""ALFWorld: the text games of Shridhar et al. (2021), played by a native engine."""
