"""The shop itself: products, pages, sessions and the score of a purchase."""
