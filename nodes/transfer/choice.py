"""Pure. Which transports lead from an owner's memory to ours, and in which order they are tried.

On one host memory is read where it lies. Between hosts NIXL goes first, because there it is RDMA or at worst the same
TCP; the bulk link goes where nothing else does. What cannot be known beforehand (a container that hides other
processes) is found out by trying: the next way takes over.
"""

from collections.abc import Collection, Sequence

from nodes.transfer.causes import Way
from nodes.transfer.handle import Handle


def reachable(addresses: Collection[str], same_host: bool, key: bool) -> tuple[str, ...]:
    """The bulk addresses that we can dial: files on this host first, and the network only with a key."""
    near = [address for address in addresses if same_host and address.startswith("ipc://")]
    far = [address for address in addresses if key and address.startswith("tcp://")]
    return (*near, *far)


def ways(handle: Handle, host: str, allowed: Sequence[Way], registered: bool, dialled: bool) -> tuple[Way, ...]:
    """The ways to try, in the order in which they are allowed.

    `registered`: NIXL knows the memory that is pulled into. `dialled`: there is an address for the bulk link.
    """
    here = handle.shared is not None and handle.shared.host == host
    possible = {
        Way.SHARED: here,
        Way.NIXL: handle.remote is not None and registered,
        Way.BULK: dialled,
    }
    return tuple(way for way in allowed if possible[way])
