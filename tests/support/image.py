#!/usr/bin/env python3
"""Gives its stdin to a courier, which carries what comes there, and becomes whimbrel."""
import os
import socket
import sys

courier = socket.socket(socket.AF_UNIX)
courier.connect("@COURIER@")
socket.send_fds(courier, [b"x"], [0])
_, (stdin,), _, _ = socket.recv_fds(courier, 1, 1)
os.dup2(stdin, 0)
os.execv("@WHIMBREL@", ["@WHIMBREL@", *sys.argv[1:]])
