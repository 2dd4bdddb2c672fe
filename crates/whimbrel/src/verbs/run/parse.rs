//! Reading the values of flags.

use monitor::{Incoming, QmpSocket};

pub fn qmp(text: &str) -> Result<QmpSocket, String> {
    let rest = text.strip_prefix("unix:").ok_or("it starts with unix:")?;
    let (path, mode) = match rest.rsplit_once(",mode=") {
        None => (rest, 0o600),
        Some((path, digits)) => {
            let mode = u32::from_str_radix(digits, 8).ok().filter(|mode| *mode <= 0o777);
            (path, mode.ok_or("the mode is three octal digits, such as 0600")?)
        }
    };
    if path.is_empty() {
        return Err("the path is missing".into());
    }
    Ok(QmpSocket { path: path.into(), mode })
}

pub fn incoming(text: &str) -> Result<Incoming, String> {
    if text == "defer" {
        return Ok(Incoming::Deferred);
    }
    text.parse().map(Incoming::At).map_err(|error| format!("{error}, or defer"))
}
