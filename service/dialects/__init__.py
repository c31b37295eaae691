"""The formats of a stream's events: values, and their bytes in each API's dialect. Pure.

May import: protocol, and the errors. A dialect knows no request and no socket.
"""
