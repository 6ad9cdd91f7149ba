"""How the C library's allocator treats what tensors free: it keeps it, for the next tensor.

glibc gives blocks of 128 KiB and more back to the system at once, which then has to fill the next one with
zeros, page by page: about a tenth of the time of a film of the larger puppet model.
"""

from __future__ import annotations

import ctypes
import sys

# From malloc.h; the largest value is that of a C int.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _LARGEST = -1, -3, 2**31 - 1


def keep_freed_memory() -> bool:
    """Have this process keep freed blocks of up to 2 GiB; tell whether its C library was asked and agreed.

    Changes no result. At most the process needs about as much as before, but it gives nothing back
    before it ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        # Another C library than glibc.
        return False
    answers = [mallopt(what, _LARGEST) for what in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD)]
    return answers == [1, 1]
