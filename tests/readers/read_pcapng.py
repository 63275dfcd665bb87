"""Prints each packet of a pcapng file as scapy reads it, one JSON object per line."""

import json
import logging
import struct
import sys

logging.getLogger("scapy").setLevel(logging.ERROR)

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.utils import PcapNgReader


class Reader(PcapNgReader):
    """scapy 2.5 reads a comment only up to a newline, and warns of one that has none."""

    def _read_options(self, options):
        known = super()._read_options(options)
        while len(options) >= 4:
            code, length = struct.unpack(self.endian + "HH", options[:4])
            if code == 1:
                known["comment"] = options[4 : 4 + length]
            options = options[4 + (length + 3) // 4 * 4 :]
        return known


for packet in Reader(sys.argv[1]):
    network = packet[IPv6] if IPv6 in packet else packet[IP]
    transport = next((packet[layer] for layer in (TCP, UDP) if layer in packet), None)
    tcp = packet[TCP] if TCP in packet else None
    comment = packet.comment
    print(
        json.dumps(
            {
                "time_ns": int(packet.time * 10**9),
                "comment": comment.decode() if isinstance(comment, bytes) else comment,
                "source": network.src,
                "destination": network.dst,
                "ports": [transport.sport, transport.dport] if transport else None,
                "seq": tcp.seq if tcp else None,
                "flags": int(tcp.flags) if tcp else None,
                "length": packet.wirelen,
            }
        )
    )
