"""The Prometheus metrics; the only package with prometheus_client.

May import: streams, protocol.
"""
