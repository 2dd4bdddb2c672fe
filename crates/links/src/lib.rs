//! What carries the protocol: TCP, Unix sockets, descriptors
