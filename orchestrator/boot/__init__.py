"""What a machine gets that starts over the network: values in, text and bytes out. Pure.

`decide` says what a machine gets and why, `script` and `start` write it down for iPXE, `dnsmasq` says who answers its
DHCP and TFTP, `site_files` and `site_cpio` are the small archive that tells the discovery image where it is. Nothing
here is kept per host: an answer is made when it is asked for, and costs the same whether 10 machines exist or 10,000.
"""

from orchestrator.boot.answers import (
    Answer,
    BootSettings,
    Decision,
    DiscoveryImage,
    Request,
    decide,
    mac_address,
    script,
    start,
)
from orchestrator.boot.dhcp import LOADERS, DhcpSettings, dnsmasq
from orchestrator.boot.rendering import Templates
from orchestrator.boot.site import Artefact, site_cpio, site_files

__all__ = [
    "LOADERS",
    "Answer",
    "Artefact",
    "BootSettings",
    "Decision",
    "DhcpSettings",
    "DiscoveryImage",
    "Request",
    "Templates",
    "decide",
    "dnsmasq",
    "mac_address",
    "script",
    "site_cpio",
    "site_files",
    "start",
]
