"""Sources of problems: generators, files and data sets."""
