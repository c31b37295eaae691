"""The whole way, nothing scripted: real processes, the embedded model."""
