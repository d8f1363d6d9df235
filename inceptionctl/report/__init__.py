"""Curves and pages of what runs have measured."""
