//! Where a motion goes to or comes from.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::error::Error;

/// An end of a motion.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// TCP.
    Inet {
        /// Host name or address, without brackets. Empty for every local address.
        host: String,
        /// Port number; 0 lets the waiting side choose.
        port: u16,
    },
    /// A Unix stream socket.
    Unix(PathBuf),
    /// A connected socket that was passed with `getfd`, by the name given to it there, or an
    /// inherited descriptor by its number.
    Fd(String),
    /// A file.
    File {
        /// Its path.
        path: PathBuf,
        /// Where in the file to start, in bytes.
        offset: u64,
    },
}

impl FromStr for Address {
    type Err = Error;

    /// `tcp:HOST:PORT` (IPv6 in brackets), `unix:PATH`, `fd:NAME`, `file:PATH[,offset=BYTES]`.
    fn from_str(uri: &str) -> Result<Self, Error> {
        let unknown = || {
            Error::invalid(format!(
                "`{uri}` is no address; it may be tcp:HOST:PORT, unix:PATH, fd:NAME or file:PATH"
            ))
        };
        let (scheme, rest) = uri.split_once(':').ok_or_else(unknown)?;
        match scheme {
            "tcp" => {
                let (host, port) = rest
                    .rsplit_once(':')
                    .ok_or_else(|| Error::invalid(format!("`{uri}` has no port: tcp:HOST:PORT")))?;
                Self::inet(host, port)
            }
            "unix" => Self::unix(rest),
            "fd" => Self::fd(rest),
            "file" => match rest.rsplit_once(",offset=") {
                None => Self::file(rest, 0),
                Some((path, offset)) => {
                    let offset = offset.parse().map_err(|_| {
                        Error::invalid(format!("the offset in `{uri}` is no number of bytes"))
                    })?;
                    Self::file(path, offset)
                }
            },
            "exec" | "rdma" | "vsock" => Err(Error::unsupported(format!(
                "`{scheme}:` addresses are not supported; use tcp:, unix:, fd: or file:"
            ))),
            _ => Err(unknown()),
        }
    }
}

impl Address {
    /// A TCP address of its parts; an IPv6 address may stand in brackets, and must where a port
    /// follows it in one string.
    pub(super) fn inet(host: &str, port: &str) -> Result<Self, Error> {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        if bare.is_none() && host.contains([':', '[', ']']) {
            return Err(Error::invalid(format!(
                "the host `{host}`: an IPv6 address is written in brackets"
            )));
        }
        let number = port.bytes().all(|b| b.is_ascii_digit()).then(|| port.parse().ok()).flatten();
        let port = number.ok_or_else(|| {
            Error::invalid(format!("the port `{port}` is no number from 0 to 65535"))
        })?;
        Ok(Self::Inet { host: bare.unwrap_or(host).to_owned(), port })
    }

    pub(super) fn unix(path: &str) -> Result<Self, Error> {
        Ok(Self::Unix(checked_path("unix", path)?))
    }

    pub(super) fn fd(name: &str) -> Result<Self, Error> {
        if name.is_empty() {
            return Err(Error::invalid("fd: needs the name of a descriptor"));
        }
        Ok(Self::Fd(name.to_owned()))
    }

    pub(super) fn file(path: &str, offset: u64) -> Result<Self, Error> {
        Ok(Self::File { path: checked_path("file", path)?, offset })
    }
}

fn checked_path(scheme: &str, path: &str) -> Result<PathBuf, Error> {
    if path.is_empty() || path.contains('\0') {
        return Err(Error::invalid(format!("{scheme}: needs a path, which has no NUL byte in it")));
    }
    Ok(PathBuf::from(path))
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inet { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Inet { host, port } => write!(f, "tcp:{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Fd(name) => write!(f, "fd:{name}"),
            Self::File { path, offset: 0 } => write!(f, "file:{}", path.display()),
            Self::File { path, offset } => write!(f, "file:{},offset={offset}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inet(host: &str, port: u16) -> Address {
        Address::Inet { host: host.into(), port }
    }

    #[test]
    fn every_form_of_address_reads_and_writes_back() {
        for (text, address) in [
            ("tcp:192.0.2.1:4444", inet("192.0.2.1", 4444)),
            ("tcp:[::1]:0", inet("::1", 0)),
            ("tcp::4444", inet("", 4444)),
            ("unix:/run/x", Address::Unix("/run/x".into())),
            ("unix:a:b", Address::Unix("a:b".into())),
            ("fd:mig", Address::Fd("mig".into())),
            ("file:/a,b", Address::File { path: "/a,b".into(), offset: 0 }),
            ("file:/a,offset=4096", Address::File { path: "/a".into(), offset: 4096 }),
        ] {
            assert_eq!(text.parse::<Address>().unwrap(), address);
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in [
            "",
            "tcp",
            "tcp:",
            "tcp:host",
            "tcp:host:",
            "tcp:host:+1",
            "tcp:host:65536",
            "tcp:::1:44",
            "tcp:[::1:44",
            "unix:",
            "unix:a\0b",
            "fd:",
            "file:",
            "file:/a,offset=x",
            "http://x",
            "/run/x",
        ] {
            assert_eq!(text.parse::<Address>().unwrap_err().code, state::Code::InvalidArgument);
        }
        for text in ["exec:cat", "rdma:h:1", "vsock:2:3"] {
            assert_eq!(text.parse::<Address>().unwrap_err().code, state::Code::Unsupported);
        }
    }
}
