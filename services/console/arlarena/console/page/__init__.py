"""The run page: `arlarena view`. It reads run directories and never writes into them."""
