"""Sources of problems: generators, files, data sets."""
