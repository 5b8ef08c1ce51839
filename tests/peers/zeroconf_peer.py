"""python-zeroconf as a peer: commands as lines on standard input, reports as JSON lines on standard output.

    register {"type": "_http._tcp.local.", "name": "x", "port": 80, "addresses": ["10.0.0.2"], "txt": {"k": "v"}}
    browse _http._tcp.local.
    close

A report has `event` (open, registered, added, updated, removed, closed) and what belongs to it. TXT values are text;
a key without a value has null.
"""

import json
import socket
import sys
import threading

from zeroconf import IPVersion, ServiceBrowser, ServiceInfo, Zeroconf

_lock = threading.Lock()


def report(event, **fields):
    with _lock:
        print(json.dumps({"event": event, **fields}), flush=True)


def text(value):
    return None if value is None else value.decode("utf-8", "backslashreplace")


class Listener:
    """Reports what a browse finds, resolved."""

    def _resolved(self, event, zeroconf, type_, name):
        info = zeroconf.get_service_info(type_, name, 5000)
        if info is None:
            report("unresolved", name=name)
            return
        report(
            event,
            type=type_,
            name=name.removesuffix("." + type_),
            port=info.port,
            addresses=info.parsed_addresses(),
            txt={text(key): text(value) for key, value in info.properties.items()},
        )

    def add_service(self, zeroconf, type_, name):
        self._resolved("added", zeroconf, type_, name)

    def update_service(self, zeroconf, type_, name):
        self._resolved("updated", zeroconf, type_, name)

    def remove_service(self, zeroconf, type_, name):
        report("removed", type=type_, name=name.removesuffix("." + type_))


def main():
    zeroconf = Zeroconf(ip_version=IPVersion.V4Only)
    report("open")
    for line in sys.stdin:
        command, _, rest = line.strip().partition(" ")
        if command == "register":
            wanted = json.loads(rest)
            info = ServiceInfo(
                wanted["type"],
                wanted["name"] + "." + wanted["type"],
                port=wanted["port"],
                parsed_addresses=wanted["addresses"],
                properties=wanted["txt"],
                server=socket.gethostname() + "-zeroconf.local.",
            )
            zeroconf.register_service(info)
            report("registered", name=wanted["name"])
        elif command == "browse":
            ServiceBrowser(zeroconf, rest, Listener())
        elif command == "close":
            break
    zeroconf.close()
    report("closed")


main()
