"""Published figures and tables, each in a module of its own."""
