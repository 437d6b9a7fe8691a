"""Environments and data sets of images and tables: glimpses and supervised problems."""
