# benchmarks/ranks/network.py: a namespace for each rank, joined by a wire of known bandwidth and delay.
"""Each namespace has one TUN device; a relay takes its packets, lets them leave at the bandwidth of the sender and arrive at that of the
receiver, a delay later. It stands for `tc netem`, which many kernels are built without, and works where there is
/dev/net/tun and the right to make namespaces. Elsewhere there is the loopback device, as it is.
"""

from __future__ import annotations

import fcntl
import heapq
import os
import select
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
MTU = 65520  # the largest packets: the relay's work is a packet's, and takes a processor from the ranks
BUFFERS = "4096 4194304 16777216"  # least, usual and most bytes: a halo fits in, and its bytes arrive while all cores compute
SUBNET = "10.77.0"


@dataclass(frozen=True)
class Wire:
    """What each rank has for itself, both ways at once."""

    gigabits: float  # a second
    milliseconds: float  # until a bit arrives

    def __str__(self) -> str:
        return f"{self.gigabits:g} Gbit/s, {self.milliseconds:g} ms"


class Loopback:
    """All ranks beside each other, without limits. `reason`: why."""

    interface, address = "lo", "127.0.0.1"

    def __init__(self, reason: str) -> None:
        self.reason = reason
        with socket.create_server((self.address, 0)) as server:
            self.port: int = server.getsockname()[1]

    def command(self, rank: int) -> list[str]:
        return []

    def carry(self, ended: Callable[[], bool]) -> None:
        while not ended():
            time.sleep(0.05)

    def close(self) -> None:
        pass


class Namespaces:
    interface, address, port = "wm", f"{SUBNET}.1", 29400
    reason = ""

    def __init__(self, ranks: int, wire: Wire) -> None:
        self.wire = wire
        self.names = [f"window_matmul_{os.getpid()}_{rank}" for rank in range(ranks)]
        self.devices: list[int] = []
        try:
            for rank, name in enumerate(self.names):
                self._add(rank, name)
        except BaseException:
            self.close()
            raise

    def _add(self, rank: int, name: str) -> None:
        _ip("netns", "add", name)
        device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        self.devices.append(device)
        outside = f"wm{os.getpid() % 10**6}r{rank}"  # until it is in its namespace
        fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", outside.encode(), IFF_TUN | IFF_NO_PI))
        _ip("link", "set", outside, "netns", name, "name", self.interface)
        _ip("-n", name, "address", "add", f"{SUBNET}.{rank + 1}/24", "dev", self.interface)
        _ip("-n", name, "link", "set", self.interface, "mtu", str(MTU), "txqueuelen", "10000", "up")
        _ip("-n", name, "link", "set", "lo", "up")
        for buffer in ("tcp_rmem", "tcp_wmem"):
            _ip("netns", "exec", name, "sh", "-c", f"echo {BUFFERS} > /proc/sys/net/ipv4/{buffer}")

    def command(self, rank: int) -> list[str]:
        return ["ip", "netns", "exec", self.names[rank]]

    def carry(self, ended: Callable[[], bool]) -> None:
        """Moves packets until nobody is left. A wire does not wait for a processor, so this thread takes one from the ranks."""
        relay = Relay(self.devices, self.wire)
        before = os.sched_getscheduler(0), os.sched_getparam(0)
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        try:
            while not ended():
                relay.turn()
        finally:
            os.sched_setscheduler(0, *before)

    def close(self) -> None:
        for device in self.devices:
            os.close(device)
        self.devices.clear()
        for name in self.names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


Network = Loopback | Namespaces


class Relay:
    """A switch: packets leave a rank one after another, and arrive at another one after another, both at the wire's bandwidth."""

    def __init__(self, devices: Sequence[int], wire: Wire) -> None:
        self.devices = list(devices)
        self.seconds_a_byte, self.delay = 8e-9 / wire.gigabits, wire.milliseconds / 1e3
        self.leaves = dict.fromkeys(self.devices, 0.0)  # when the last packet has left
        self.arrives = dict.fromkeys(self.devices, 0.0)
        self.under_way: list[tuple[float, int, int, bytes]] = []  # by the time of arrival
        self.number = 0

    def turn(self) -> None:
        """Takes what has come, hands over what is due, and waits for the next of either."""
        wait = min(max(self.under_way[0][0] - time.monotonic(), 0.0), 0.05) if self.under_way else 0.05
        for device in select.select(self.devices, [], [], wait)[0]:
            self._take(device)
        while self.under_way and self.under_way[0][0] <= time.monotonic():
            _, _, to, packet = heapq.heappop(self.under_way)
            os.write(to, packet)

    def _take(self, device: int) -> None:
        packet = os.read(device, MTU)
        to = self.devices[packet[19] - 1] if packet[0] >> 4 == 4 and 0 < packet[19] <= len(self.devices) else None
        if to is None:  # IPv6 asking for its neighbours
            return
        lasts = len(packet) * self.seconds_a_byte
        self.leaves[device] = left = max(self.leaves[device], time.monotonic()) + lasts
        self.arrives[to] = arrived = max(self.arrives[to] + lasts, left)  # cut through: its bits arrive while they leave
        self.number += 1
        heapq.heappush(self.under_way, (arrived + self.delay, self.number, to, packet))


def network(ranks: int, wire: Wire) -> Network:
    """Namespaces, or the loopback device and why."""
    try:
        return Namespaces(ranks, wire)
    except (OSError, subprocess.CalledProcessError) as error:
        said = error.stderr if isinstance(error, subprocess.CalledProcessError) else str(error)
        return Loopback(f"no network namespaces here: {said.strip()}")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
