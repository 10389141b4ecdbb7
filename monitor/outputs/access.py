"""What guards the web server at one time: the ``[web]`` table, with its certificates loaded.

One object, so that a reload prepares all of it before any of it is in force.
"""

from __future__ import annotations

import ssl
from ipaddress import IPv6Address, ip_address, ip_network
from pathlib import Path

from monitor.access import Web
from monitor.outputs.doorman import Answer, Doorman
from monitor.outputs.tls import Certificates


class Access:
    """Who may reach the pages, and over what. Raises :class:`UsageError` if a certificate or key cannot be used.

    ``file`` is the configuration that ``web`` comes from; mistakes name it.
    """

    def __init__(self, file: Path, web: Web) -> None:
        self.certificates = Certificates(file, web) if web.tls_cert else None
        self._doorman = Doorman(web.users) if web.users else None
        self._networks = [ip_network(network) for network in web.allow]

    @property
    def tls(self) -> ssl.SSLContext | None:
        """The TLS of new connections, if they have one."""
        return self.certificates.context if self.certificates else None

    def permits(self, address: str) -> bool:
        """Whether a client of this address may connect at all."""
        if not self._networks:
            return True
        client = ip_address(address)
        if isinstance(client, IPv6Address) and client.ipv4_mapped:
            client = client.ipv4_mapped
        return any(client in network for network in self._networks)

    async def ask(self, authorization: str | None, client: str) -> Answer:
        """Whether a request with this header may see the pages."""
        return await self._doorman.ask(authorization, client) if self._doorman else Answer(True)
