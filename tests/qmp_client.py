#!/usr/bin/env python3
"""Drives a machine with the QMP client that QEMU's users have (`pip install qemu.qmp`).

usage: qmp_client.py SOCKET [UPDATES]

The machine must be running; it is stopped for a moment and runs again afterwards, and its process is
replaced so many times. Prints one line for each thing shown and exits with 0, or says what was not as
it should be and exits with 1.
"""

import asyncio
import os
import sys

from qemu.qmp import ExecuteError, QMPClient

PATIENCE = 30  # seconds; reached only when something is broken
PATIENCE_PER_UPDATE = 2


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


async def ask_without_end(qmp):
    """Asks until it is cancelled, and returns how often it was answered: as often as it asked."""
    answered = 0
    try:
        while True:
            # Not given up in the middle: a command whose answer nobody waits for is not answered.
            status = await asyncio.shield(qmp.execute("query-status"))
            if status["status"] != "running":
                raise SystemExit(f"FAILED: the machine is {status!r} while it is updated")
            answered += 1
            await asyncio.sleep(0.001)
    except asyncio.CancelledError:
        return answered


async def update(qmp, times):
    """Has the machine's process replaced, with this client connected all the time."""
    processes = []
    asking = asyncio.create_task(ask_without_end(qmp))
    with qmp.listener(("x-whimbrel-updated", "STOP", "RESUME", "SHUTDOWN")) as listener:
        for _ in range(times):
            await qmp.execute("migrate-set-parameters", {"x-whimbrel-downtime-unlimited": True})
            await qmp.execute("x-whimbrel-update", {"mode": "transfer"})
            while True:
                motion = await qmp.execute("query-migrate")
                if motion["status"] == "completed":
                    break
                if motion["status"] in ("failed", "cancelled"):
                    raise SystemExit(f"FAILED: an update: {motion!r}")
                await asyncio.sleep(0.002)
            machine = await qmp.execute("x-whimbrel-query-machine")
            processes.append(machine["pid"])
        told = [await listener.get() for _ in range(times)]
        check("one event for each update, in order, and no other",
              [event["event"] for event in told] == ["x-whimbrel-updated"] * times
              and [event["data"]["pid"] for event in told] == processes and listener.empty(), told)
    check("each update has another process", len(set(processes)) == times, processes)
    asking.cancel()
    answered = await asking
    check(f"all commands are answered meanwhile ({answered} of {answered}, {times} updates)",
          answered > times, answered)


async def talk(path, updates):
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
    if updates:
        await update(qmp, updates)
    await qmp.disconnect()


def main():
    if len(sys.argv) not in (2, 3):
        print(__doc__, file=sys.stderr)
        raise SystemExit(2)
    updates = int(sys.argv[2]) if len(sys.argv) == 3 else 0
    patience = PATIENCE + updates * PATIENCE_PER_UPDATE
    asyncio.run(asyncio.wait_for(talk(sys.argv[1], updates), patience))
    print("done")


if __name__ == "__main__":
    main()
