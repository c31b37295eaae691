"""Tests of what builds and measures Rill."""
