"""The engine's tests: pure parts by property, the rest on the real llama.cpp with models of a few hundred tokens."""
