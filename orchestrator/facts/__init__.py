"""What a machine is made of: from the discovery agent's JSON to typed values, and to the names that rules use.

`read` takes our agent's document and ironic-python-agent's own; `properties` gives the flat table that
`orchestrator/matching` judges (docs/matching.md has it in words).
"""

from orchestrator.facts.properties import DISK_TYPES, PROPERTIES, Kind, Property, disk_properties, properties
from orchestrator.facts.read import MOST_BYTES, read
from orchestrator.facts.values import Dimm, Disk, Facts, Gpu, Neighbour, Nic, PciDevice, Tpm, Virtualization

__all__ = [
    "DISK_TYPES",
    "MOST_BYTES",
    "PROPERTIES",
    "Dimm",
    "Disk",
    "Facts",
    "Gpu",
    "Kind",
    "Neighbour",
    "Nic",
    "PciDevice",
    "Property",
    "Tpm",
    "Virtualization",
    "disk_properties",
    "properties",
    "read",
]
