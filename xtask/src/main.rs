//! Tasks that are run more than twice.
fn main() {}
