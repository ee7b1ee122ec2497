#!/usr/bin/env python3
"""Makes scapy.pcap: packets by another hand, which the tests parse and build again byte by byte.

    pip install scapy && python3 make.py && editcap -F pcapng scapy.pcap scapy.pcapng
"""
from pathlib import Path

from scapy.all import (ARP, ICMP, IP, TCP, UDP, Dot1AD, Dot1Q, Ether, ICMPv6EchoReply, ICMPv6EchoRequest, IPv6,
                       IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPOption_RR, Raw, wrpcap)

ETHER = dict(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
V4 = dict(src="10.0.0.1", dst="10.0.0.2", flags="DF", id=7)
V6 = dict(src="fd00::1", dst="fd00::2")
BODIES = [b"", b"x", b"straightway", bytes(range(256)) * 5]


def packets():
    for body in BODIES:
        payload = Raw(body) if body else b""
        yield Ether(**ETHER) / IP(**V4) / UDP(sport=1000, dport=53) / payload
        yield Ether(**ETHER) / IPv6(**V6) / UDP(sport=1000, dport=53) / payload
        yield Ether(**ETHER) / IP(**V4) / TCP(sport=4000, dport=80, seq=1, ack=2, flags="PA", window=500) / payload
        yield Ether(**ETHER) / IPv6(**V6) / TCP(sport=4000, dport=80, seq=1, ack=2, flags="PA", window=500) / payload
        yield Ether(**ETHER) / IP(**V4) / ICMP(type=8, id=3, seq=4) / payload
        yield Ether(**ETHER) / IP(**V4) / ICMP(type=0, id=3, seq=4) / payload
        yield Ether(**ETHER) / IPv6(**V6) / ICMPv6EchoRequest(id=3, seq=4, data=body)
        yield Ether(**ETHER) / IPv6(**V6) / ICMPv6EchoReply(id=3, seq=4, data=body)
        yield Ether(**ETHER) / Dot1Q(vlan=100, prio=5) / IP(**V4) / UDP(sport=1000, dport=53) / payload
        yield (Ether(**ETHER, type=0x88a8) / Dot1AD(vlan=10, type=0x8100) / Dot1Q(vlan=200)
               / IP(**V4) / UDP(sport=1000, dport=53) / payload)
    syn = [("MSS", 1460), ("NOP", None), ("WScale", 7), ("NOP", None), ("NOP", None), ("SAckOK", b""),
           ("NOP", None), ("NOP", None), ("Timestamp", (11, 12))]
    yield Ether(**ETHER) / IP(**V4) / TCP(sport=4000, dport=80, seq=9, flags="S", options=syn)
    yield Ether(**ETHER) / IP(**V4, tos=0xb9, ttl=3) / UDP(sport=1, dport=2) / Raw(b"marked")
    yield Ether(**ETHER) / IPv6(**V6, tc=0xb9, fl=0x12345, hlim=3) / UDP(sport=1, dport=2) / Raw(b"marked")
    # What the builders do not make and the views read.
    yield Ether(**ETHER) / ARP(op=1, hwsrc=ETHER["src"], psrc="10.0.0.1", pdst="10.0.0.2")
    yield Ether(**ETHER) / IP(**V4, options=[IPOption_RR(routers=["1.2.3.4"])]) / UDP(sport=1, dport=2) / Raw(b"routed")
    yield (Ether(**ETHER) / IPv6(**V6) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / UDP(sport=1, dport=2)
           / Raw(b"extended"))
    yield Ether(**ETHER) / IPv6(**V6) / IPv6ExtHdrFragment(offset=3, m=1, id=99, nh=17) / Raw(b"a piece!")


if __name__ == "__main__":
    wrpcap(str(Path(__file__).parent / "scapy.pcap"), [Ether(bytes(packet)) for packet in packets()])
