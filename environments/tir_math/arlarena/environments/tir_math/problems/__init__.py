"""Where problems come from: generators, files, data sets."""
