"""Tests of the embedded model: the real file in the real llama.cpp."""
