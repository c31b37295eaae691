"""HTTP: the routes, request validation, access control, and sending streams. The only package that uses aiohttp.

May import: streams, dialects, protocol, errors, logs, words. Nothing but app.py and __main__.py imports it.
"""
