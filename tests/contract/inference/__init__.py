"""A package, so that a fixture of its conftest can live as long as the tests of this folder."""
