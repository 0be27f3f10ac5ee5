"""The shop as a web page for people."""
