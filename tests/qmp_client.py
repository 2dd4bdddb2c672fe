#!/usr/bin/env python3
"""Drives a machine with the QMP client that QEMU's users have (`pip install qemu.qmp`).

usage: qmp_client.py SOCKET
       qmp_client.py SOCKET --listen

The machine must be running; it is stopped for a moment and runs again afterwards. Prints one line for
each thing shown and exits with 0, or says what was not as it should be and exits with 1.

With --listen it stays connected and asks without end, whatever else is done with the machine, until its
standard input ends; then it prints, in JSON, how often it was answered and all events that it was told.
"""

import asyncio
import json
import os
import sys

from qemu.qmp import ExecuteError, QMPClient

PATIENCE = 30  # seconds; reached only when something is broken


def check(what, holds, seen):
    """Says that something holds, or ends the whole with what was seen instead."""
    if not holds:
        raise SystemExit(f"FAILED: {what}: {seen!r}")
    print(f"ok: {what}")


async def refused(qmp, command, arguments=None, **how):
    """The error that a command is answered with."""
    try:
        answer = await qmp.execute(command, arguments, **how)
    except ExecuteError as error:
        return error
    raise SystemExit(f"FAILED: {command} was not refused but answered: {answer!r}")


async def listen(path):
    """Asks until standard input ends, and prints what was heard meanwhile."""
    ends = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    qmp = QMPClient("listener")
    with qmp.listener() as listener:
        await asyncio.wait_for(qmp.connect(path), PATIENCE)
        print("listening", flush=True)
        answers = 0
        while not ends.done():
            status = await asyncio.wait_for(qmp.execute("query-status"), PATIENCE)
            if status["status"] not in ("running", "paused"):
                raise SystemExit(f"FAILED: the machine is {status!r}")
            answers += 1
            await asyncio.sleep(0.001)
        # Whatever was said before this answer has come before it.
        await asyncio.wait_for(qmp.execute("query-name"), PATIENCE)
        events = []
        while not listener.empty():
            events.append(dict(await listener.get()))
    print(json.dumps({"answers": answers, "events": events}), flush=True)
    await qmp.disconnect()


async def talk(path):
    qmp = QMPClient("whimbrel")
    await qmp.connect(path)
    greeting = qmp.greeting.QMP
    check("the greeting names the package", "whimbrel-" in str(greeting.version), greeting)
    check("out-of-band execution is offered", "oob" in greeting.capabilities, greeting)

    version = await qmp.execute("query-version")
    check("query-version", version["package"].startswith("whimbrel-"), version)
    status = await qmp.execute("query-status")
    check("query-status says running", status == {"running": True, "status": "running"}, status)
    names = {command["name"] for command in await qmp.execute("query-commands")}
    needed = {"qmp_capabilities", "query-status", "migrate", "query-migrate", "quit"}
    check("query-commands lists what is there", needed <= names, names)
    parameters = await qmp.execute("query-migrate-parameters")
    check("query-migrate-parameters", "downtime-limit" in parameters, parameters)
    capabilities = await qmp.execute("query-migrate-capabilities")
    check("query-migrate-capabilities", {"capability": "events", "state": True} in capabilities,
          capabilities)

    error = await refused(qmp, "no-such-command")
    check("an unknown command", error.error_class == "CommandNotFound", error)
    error = await refused(qmp, "human-monitor-command", {"command-line": "info status"})
    check("human-monitor-command is refused by name", "human-monitor-command" in str(error), error)
    error = await refused(qmp, "migrate", {"uri": "tcp:127.0.0.1:1", "no-such-argument": 1})
    check("an unknown argument", "no-such-argument" in str(error), error)
    error = await refused(qmp, "migrate", {"uri": 7})
    check("an argument of the wrong type", error.error_class == "GenericError", error)
    error = await refused(qmp, "migrate-set-parameters", {"downtime-limit": 0})
    check("a value that cannot be", "x-whimbrel-downtime-unlimited" in str(error), error)
    code = error.received["error"]["x-whimbrel-code"]
    check("the stable code of an error", code == "invalid-argument", code)

    status = await qmp.execute("query-status", oob=True)
    check("an out-of-band command", status["running"] is True, status)
    error = await refused(qmp, "stop", oob=True)
    check("a command that may not be out of band", error.error_class == "GenericError", error)

    reader, writer = os.pipe()
    qmp.send_fd_scm(writer)
    os.close(writer)
    check("getfd", await qmp.execute("getfd", {"fdname": "pipe"}) == {}, None)
    check("closefd", await qmp.execute("closefd", {"fdname": "pipe"}) == {}, None)
    check("the descriptor is closed", os.read(reader, 1) == b"", None)
    os.close(reader)

    with qmp.listener(("STOP", "RESUME")) as listener:
        await qmp.execute("stop")
        event = await listener.get()
        stamp = event["timestamp"]
        check("STOP with its time", event["event"] == "STOP" and stamp["seconds"] > 0
              and 0 <= stamp["microseconds"] < 1_000_000, event)
        status = await qmp.execute("query-status")
        check("the machine is stopped", status["running"] is False, status)
        await qmp.execute("cont")
        event = await listener.get()
        check("RESUME", event["event"] == "RESUME", event)

    answers = await asyncio.gather(*(qmp.execute("query-status") for _ in range(10)))
    check("ten commands at once", all(answer["running"] for answer in answers), answers)
    await qmp.disconnect()


def main():
    match sys.argv[1:]:
        case [path]:
            asyncio.run(asyncio.wait_for(talk(path), PATIENCE))
            print("done")
        case [path, "--listen"]:
            asyncio.run(listen(path))
        case _:
            print(__doc__, file=sys.stderr)
            raise SystemExit(2)


if __name__ == "__main__":
    main()
