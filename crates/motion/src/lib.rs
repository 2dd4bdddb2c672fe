//! The engine that moves a running machine from a source to a sink
