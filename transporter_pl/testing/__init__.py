"""The contract suite: does a plug-in, ours or a stranger's, keep what its port promises?

``check_generator(adapter)``, ``check_vlm(adapter)`` and ``check_transport(name, options)`` return a list of findings;
an empty list means that it does.
"""

from transporter_pl.testing.adapters import check_generator, check_vlm
from transporter_pl.testing.findings import Finding
from transporter_pl.testing.transports import check_transport

__all__ = ["Finding", "check_generator", "check_transport", "check_vlm"]
