"""Tools that know no product noun."""
