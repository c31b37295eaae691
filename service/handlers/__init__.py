"""The HTTP edge: one file per dialect, each a short adapter from aiohttp to the parts that decide."""
