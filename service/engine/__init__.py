"""The engine's room: prompt in, tokens out. No aiohttp, no settings, no prometheus in here."""
