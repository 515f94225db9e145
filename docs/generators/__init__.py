"""One file per page that is made from the code."""
