"""Tasks that nobody solves without memory, as environments and as supervised streams."""
