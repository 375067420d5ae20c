"""How the example pages are drawn: a pen, lettering, a cast of two, their garden, and the pages."""
