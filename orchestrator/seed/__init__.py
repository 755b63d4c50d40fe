"""What an installed system is told at its first start: values in, the files of a seed out. Pure.

`host` puts together what a node's system is to be, from spec and facts; `linux`, `openstack` and `windows` write it
down for cloud-init (NoCloud, ConfigDrive v2) and cloudbase-init. No seed holds a secret: people and programs log in
with keys.
"""

from orchestrator.seed.configdrive import openstack, windows
from orchestrator.seed.layout import host
from orchestrator.seed.nocloud import linux, network_config
from orchestrator.seed.values import Bond, File, Host, Nic, Port, Seed, problems_of

__all__ = [
    "Bond",
    "File",
    "Host",
    "Nic",
    "Port",
    "Seed",
    "host",
    "linux",
    "network_config",
    "openstack",
    "problems_of",
    "windows",
]
