"""WebShop: a shop of text pages with search. A purchase ends the episode."""
