from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from unittest.mock import Mock

import pytest

from m2d.data.decode import Broken
from m2d.data.decoder_pool import DecoderPool

LONG_S = 3600.0


def _square_or_misbehave(number: int) -> int | Broken:
    if number == 3:
        os._exit(7)
    if number == 5:
        time.sleep(LONG_S)
    return number * number


def _process_id(_: int) -> int | Broken:
    return os.getpid()


def test_hanging_and_crashing_work_is_told_and_the_rest_goes_on() -> None:
    with DecoderPool(num_workers=1, time_limit_s=2.0) as pool:
        results = dict(pool.map(_square_or_misbehave, range(8)))
    told = {number: result.reason for number, result in results.items() if isinstance(result, Broken)}
    assert told == {
        3: "crashes the decoder (exit code 7)",
        5: "is not decoded after 2 s; its process was ended",
    }
    assert {number: results[number] for number in (0, 4, 6, 7)} == {0: 0, 4: 16, 6: 36, 7: 49}


def _stand_apart_late() -> None:
    os.setpgrp()
    time.sleep(LONG_S)


def test_a_pool_closes_when_its_processes_have_started(monkeypatch: pytest.MonkeyPatch) -> None:
    # A process that finds its pool closed while it starts prints a traceback.
    process = multiprocessing.get_context("spawn").Process(target=_stand_apart_late, daemon=True)
    process.start()
    pool = DecoderPool(num_workers=1, time_limit_s=60.0)
    started = []
    stopped = Mock(stop=lambda: started.append(os.getpgid(process.pid or 0) == process.pid))
    monkeypatch.setattr(pool, "_pool", stopped)
    pool.close()
    process.kill()
    assert started == [True]


def test_no_process_is_left_behind() -> None:
    with DecoderPool(num_workers=1, time_limit_s=60.0) as pool:
        (_, process_id), *_ = pool.map(_process_id, [0])
    assert not isinstance(process_id, Broken)
    with pytest.raises(ProcessLookupError):
        os.kill(process_id, 0)
    assert not Path(f"/proc/{process_id}").exists()
