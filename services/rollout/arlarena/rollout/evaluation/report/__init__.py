"""Tables, pages and exports of an evaluation."""
