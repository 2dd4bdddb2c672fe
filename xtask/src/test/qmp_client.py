"""Drives a machine with qemu.qmp, as a user of QEMU's would: qmp_client.py WHIMBREL"""

import asyncio
import os
import subprocess
import sys
import tempfile

from qemu.qmp import ExecuteError, QMPClient
from qemu.qmp.events import EventListener

PATIENCE = 60


async def connect(path, name):
    client = QMPClient(name)
    for _ in range(PATIENCE * 10):
        if os.path.exists(path):
            break
        await asyncio.sleep(0.1)
    await client.connect(path)
    return client


async def expect_event(listener, name):
    event = await asyncio.wait_for(listener.get(), PATIENCE)
    assert event["event"] == name, event
    stamp = event["timestamp"]
    assert stamp["seconds"] > 0 and 0 <= stamp["microseconds"] < 1_000_000, event


async def refused(client, code, command, arguments=None):
    try:
        answer = await client.execute(command, arguments)
    except ExecuteError as error:
        assert error.error_class == ("CommandNotFound" if code == "command-not-found" else "GenericError"), error
        assert error.error.desc, error
        return
    raise AssertionError(f"{command} {arguments} was accepted: {answer}")


async def drive(path, process):
    first = await connect(path, "first")
    second = await connect(path, "second")

    version = first.greeting.QMP["version"]
    assert version["package"].startswith("whimbrel-"), version
    assert "oob" in first.greeting.QMP["capabilities"]
    assert await first.execute("query-version") == version
    names = {command["name"] for command in await first.execute("query-commands")}
    assert {"query-status", "stop", "cont", "migrate", "quit"} <= names, names

    assert (await first.execute("query-name"))["name"] == "driven"
    assert len(await first.execute("query-cpus-fast")) == 2
    status = await first.execute("query-status")
    assert status["status"] == "running" and status["running"] is True, status

    # Events go to every client.
    with first.listener() as here, second.listener() as there:
        await first.execute("stop")
        await expect_event(here, "STOP")
        await expect_event(there, "STOP")
        assert (await second.execute("query-status"))["status"] == "paused"
        await second.execute("cont")
        await expect_event(here, "RESUME")
        await expect_event(there, "RESUME")
    assert (await first.execute("query-status"))["running"] is True

    await refused(first, "command-not-found", "no-such-command")
    await refused(first, "invalid-argument", "migrate")
    await refused(first, "invalid-argument", "query-status", {"surprise": 1})
    await refused(first, "invalid-argument", "migrate-set-parameters", {"downtime-limit": "soon"})
    await refused(first, "unsupported", "migrate-set-capabilities",
                  {"capabilities": [{"capability": "xbzrle", "state": True}]})

    # Out of band, beside commands in flight.
    answers = await asyncio.gather(
        *(first.execute("query-status") for _ in range(20)),
        first.execute("migrate-pause", oob=True),
        return_exceptions=True,
    )
    assert all(answer["status"] == "running" for answer in answers[:20]), answers
    assert isinstance(answers[20], ExecuteError), answers[20]

    assert (await first.execute("query-migrate")).get("status", "none") == "none"
    with second.listener("SHUTDOWN") as shutdown:
        await first.execute("quit")
        event = await asyncio.wait_for(shutdown.get(), PATIENCE)
        assert event["data"]["guest"] is False, event
    await asyncio.to_thread(process.wait, PATIENCE)
    assert process.returncode == 0, process.returncode


def main(whimbrel):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "qmp.sock")
        environment = {**os.environ, "XDG_RUNTIME_DIR": folder}
        command = [whimbrel, "run", "--name", "driven", "--guest", "workload", "--cpus", "2",
                   "--console", "off", "--qmp", f"unix:{path}"]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment)
        try:
            asyncio.run(drive(path, process))
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    print("qemu.qmp: all as it should be")


main(sys.argv[1])
