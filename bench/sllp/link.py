"""A link between two network namespaces that loses and delays packets, each drawn from a seed.

    link.py PID_A PID_B LOSS DELAY_MS SEED

The namespaces are those of two processes; they get the addresses 10.77.0.1 and 10.77.0.2. Whole IP packets pass, so TCP and UDP
meet the same link. It ends when standard input does.
"""

import fcntl
import heapq
import os
import random
import select
import struct
import subprocess
import sys
import time

TUNSETIFF = 0x400454CA
IFF_TUN_NO_PI = 0x1001
LARGEST_PACKET = 65536
MTU = 1500
MOST_WAITING = 20000


def open_end(name, pid, own, other):
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN_NO_PI))
    subprocess.run(["ip", "link", "set", name, "netns", str(pid)], check=True)
    inside = ["nsenter", f"--net=/proc/{pid}/ns/net", "--", "ip"]
    subprocess.run([*inside, "addr", "add", own, "peer", other, "dev", name], check=True)
    subprocess.run([*inside, "link", "set", "lo", "up"], check=True)
    subprocess.run([*inside, "link", "set", name, "mtu", str(MTU), "up"], check=True)
    # What Linux does unless it is told otherwise, whatever this machine was told; in a namespace only a route may say so.
    subprocess.run([*inside, "route", "replace", other, "dev", name, "src", own, "congctl", "cubic"], check=True)
    return tun


def main():
    pid_a, pid_b, loss, delay_ms, seed = sys.argv[1:6]
    chance = random.Random(int(seed))
    a = open_end("bencha", pid_a, "10.77.0.1", "10.77.0.2")
    b = open_end("benchb", pid_b, "10.77.0.2", "10.77.0.1")
    across = {a: b, b: a}
    waiting = []
    count = 0
    print("ready", flush=True)
    while True:
        wait = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
        readable, _, _ = select.select([a, b, sys.stdin], [], [], wait)
        if sys.stdin in readable and not os.read(0, 1):
            return
        for tun in readable:
            if tun == sys.stdin:
                continue
            while True:
                try:
                    packet = os.read(tun, LARGEST_PACKET)
                except BlockingIOError:
                    break
                if chance.random() >= float(loss) and len(waiting) < MOST_WAITING:
                    count += 1
                    heapq.heappush(waiting, (time.monotonic() + float(delay_ms) / 1000, count, across[tun], packet))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            _, _, tun, packet = heapq.heappop(waiting)
            try:
                os.write(tun, packet)
            except OSError:
                pass


main()
