"""Molecules as graphs of atoms, docking and binding scores, labelled sets."""
