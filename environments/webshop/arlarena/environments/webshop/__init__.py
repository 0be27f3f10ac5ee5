"""WebShop: a shop of text pages with search, in which an episode ends with a purchase."""
