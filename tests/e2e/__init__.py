"""End to end, nothing scripted: real processes, the embedded model."""
