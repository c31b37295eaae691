"""Builds llama-cpp-python, patched, for this machine, and shows that the build lives.

It runs before any package is installed, so nothing but Python's standard library is imported here."""
