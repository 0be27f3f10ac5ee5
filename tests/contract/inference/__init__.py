"""A package, so that a fixture of its conftest has the scope of this folder."""
