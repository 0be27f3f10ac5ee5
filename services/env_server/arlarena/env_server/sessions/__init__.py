"""Sessions and what is done with them, whatever the transport."""
