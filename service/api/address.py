"""The service's public URL, which its own listener does not know behind a published port. Pure."""

from __future__ import annotations

from ipaddress import ip_address

ANYWHERE = ("", "0.0.0.0", "::")


def public_url(publish: str) -> str | None:
    """The URL of what Docker publishes as `publish` (`8080`, `127.0.0.1:9000`, `[::1]:9000`); None where that has no
    single port: 0 or a range, from which Docker chooses."""
    host, port = _split(publish)
    if not port.isdecimal() or int(port) == 0:
        return None
    name = "localhost" if host in ANYWHERE else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}"


def is_private(publish: str, listens_on: str) -> bool:
    """Whether only this machine can reach the service. publish: as above; empty: no proxy in front."""
    host = _split(publish)[0] if publish else listens_on
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:  # empty (all interfaces), or a host name
        return False


def banner(own_url: str, publish: str, example: str) -> str:
    """The text printed at start: an address that users can open."""
    url = public_url(publish) if publish else own_url
    if url is None:
        return f"Rill is at the published port of the proxy in front ({publish}): docker compose port nginx 8080\n"
    return f"Rill is at {url}/ — its page; or, from a shell:\n\n    curl -N '{url}{example}'\n"


def _split(publish: str) -> tuple[str, str]:
    host, _, port = publish.rpartition(":")
    return host.strip("[]"), port
