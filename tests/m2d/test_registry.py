"""Backends are found by name, and asked before they are used."""

import subprocess
import sys

import pytest

from m2d.errors import UnknownBackend
from m2d.registry import available_backends, backend_names, get_backend


def test_eager_is_installed_and_works_here():
    assert "eager" in backend_names()
    assert {status.name: status.unavailable_reason for status in available_backends("cpu")}["eager"] is None


def test_an_unknown_backend_is_refused_with_the_installed_ones():
    with pytest.raises(UnknownBackend, match=r"backend: got 'eagr', installed: .*eager"):
        get_backend("eagr")


def test_a_device_that_no_backend_knows_is_a_reason_and_no_error():
    reasons = {status.name: status.unavailable_reason for status in available_backends("abacus")}
    assert "device 'abacus' is not known; use cpu, cuda or cuda:N" in str(reasons["eager"])


def test_listing_backends_imports_no_torch():
    program = (
        "import sys; from m2d.registry import available_backends as a; a(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
