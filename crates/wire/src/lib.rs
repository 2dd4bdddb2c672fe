//! The protocol between two engines: messages, framing, handshake. Pure, no I/O
