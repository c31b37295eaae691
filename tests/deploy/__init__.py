"""Tests of the programs that build and measure Rill."""
