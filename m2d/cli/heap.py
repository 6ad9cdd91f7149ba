"""Makes the C library's allocator keep freed memory for the next tensor.

By default glibc returns freed blocks of 128 KiB and more to the system, which fills the next block with
zeros: about a tenth of the time of a film of the larger puppet model.
"""

from __future__ import annotations

import ctypes
import sys

# From malloc.h; the largest value is that of a C int.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _LARGEST = -1, -3, 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep freed blocks of up to 2 GiB in this process; return whether its C library supports that.

    Changes no result. The peak is about the same, but memory is returned only when the process ends.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        # The C library is not glibc.
        return False
    answers = [mallopt(what, _LARGEST) for what in (_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD)]
    return answers == [1, 1]
