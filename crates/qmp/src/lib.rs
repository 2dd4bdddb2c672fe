//! The QMP server: JSON lines, typed commands and events
