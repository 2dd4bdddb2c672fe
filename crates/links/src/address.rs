//! Where the other end of a motion is.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

/// Longest path of a Unix socket, in bytes: `sun_path` less its terminating zero (unix(7)).
const LONGEST_SOCKET_PATH: usize = 107;
/// Longest host name, in bytes (RFC 1035, section 2.3.4).
const LONGEST_HOST: usize = 253;

/// Where the other end of a motion is, as QMP's `uri` and the command line write it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// `tcp:HOST:PORT`; an IPv6 address stands in brackets when written, and without them here.
    Tcp {
        /// A name or address.
        host: String,
        /// The port; 0 lets the kernel choose one for a listener.
        port: u16,
    },
    /// `unix:PATH`, a stream socket.
    Unix(PathBuf),
    /// `fd:NAME`, a descriptor that was given with QMP's `getfd`.
    Fd(String),
    /// `file:PATH`.
    File(PathBuf),
}

/// Why a text is no [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an address: {why}")]
pub struct AddressError {
    text: String,
    why: String,
}

impl Address {
    /// Whether what travels between here and there stays within this host, so that nobody else
    /// can read it. A name counts only when it is `localhost`: what another name resolves to may
    /// change between the check and its use.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Tcp { host, .. } => match host.parse::<IpAddr>() {
                Ok(ip) => ip.to_canonical().is_loopback(),
                Err(_) => host.eq_ignore_ascii_case("localhost"),
            },
            Self::Unix(_) | Self::Fd(_) | Self::File(_) => true,
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Fd(name) => write!(f, "fd:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        parse(text).map_err(|why| AddressError { text: clip(text), why })
    }
}

impl From<std::net::SocketAddr> for Address {
    fn from(address: std::net::SocketAddr) -> Self {
        Self::Tcp { host: address.ip().to_string(), port: address.port() }
    }
}

/// The text for a message: whole, unless a client sent something absurd.
fn clip(text: &str) -> String {
    const LONGEST: usize = 200;
    match text.char_indices().nth(LONGEST) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

fn parse(text: &str) -> Result<Address, String> {
    let Some((scheme, rest)) = text.split_once(':') else {
        return Err("it must start with tcp:, unix:, fd: or file:".into());
    };
    match scheme {
        "tcp" => tcp(rest),
        "unix" if rest.len() > LONGEST_SOCKET_PATH => Err(format!(
            "the path of a Unix socket has at most {LONGEST_SOCKET_PATH} bytes, this one has {}",
            rest.len()
        )),
        "unix" => path(rest).map(Address::Unix),
        "file" => path(rest).map(Address::File),
        "fd" if rest.is_empty() => Err("the name of a descriptor is missing: fd:NAME".into()),
        "fd" if rest.contains(|c: char| c.is_whitespace() || c.is_control()) => {
            Err("the name of a descriptor has no spaces".into())
        }
        "fd" => Ok(Address::Fd(rest.to_owned())),
        other => {
            Err(format!("`{}:` is not known; use tcp:, unix:, fd: or file:", other.escape_debug()))
        }
    }
}

fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("the path is missing".into());
    }
    if text.contains('\0') {
        return Err("a path has no zero byte".into());
    }
    Ok(PathBuf::from(text))
}

fn tcp(text: &str) -> Result<Address, String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) =
                rest.split_once("]:").ok_or("an IPv6 address is written tcp:[ADDRESS]:PORT")?;
            // A zone (fe80::1%eth0) is for the resolver to judge.
            let ip = host.split_once('%').map_or(host, |(ip, _)| ip);
            ip.parse::<Ipv6Addr>().map_err(|_| format!("[{host}] holds no IPv6 address"))?;
            (host, port)
        }
        None => {
            let (host, port) = text.rsplit_once(':').ok_or("the port is missing: tcp:HOST:PORT")?;
            if host.contains(':') {
                return Err("an IPv6 address stands in brackets: tcp:[ADDRESS]:PORT".into());
            }
            (host, port)
        }
    };
    if host.is_empty() {
        return Err("the host is missing; tcp:0.0.0.0:PORT listens on all IPv4 addresses".into());
    }
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '[' | ']' | '/');
    if host.len() > LONGEST_HOST || host.contains(odd) {
        return Err("the host is no valid name or address".into());
    }
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let port = port.parse().ok().filter(|_| digits).ok_or("the port is no number up to 65535")?;
    Ok(Address::Tcp { host: host.to_owned(), port })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp { host: host.into(), port }
    }

    #[test]
    fn each_form_is_read() {
        for (text, want) in [
            ("tcp:localhost:4444", tcp("localhost", 4444)),
            ("tcp:127.0.0.1:0", tcp("127.0.0.1", 0)),
            ("tcp:[::1]:65535", tcp("::1", 65535)),
            ("tcp:[fe80::1%eth0]:1", tcp("fe80::1%eth0", 1)),
            ("unix:/run/a:b.sock", Address::Unix("/run/a:b.sock".into())),
            ("fd:out", Address::Fd("out".into())),
            ("file:state.img", Address::File("state.img".into())),
        ] {
            assert_eq!(text.parse(), Ok(want), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_is_refused_with_the_reason() {
        let long = format!("unix:/{}", "x".repeat(107));
        for (text, reason) in [
            ("", "must start with"),
            ("/run/x.sock", "must start with"),
            ("http://x", "`http:` is not known"),
            ("tcp:host", "port is missing"),
            ("tcp::4444", "host is missing"),
            ("tcp:host:", "no number"),
            ("tcp:host:+1", "no number"),
            ("tcp:host:65536", "no number"),
            ("tcp:::1:4444", "in brackets"),
            ("tcp:[::1]4444", "tcp:[ADDRESS]:PORT"),
            ("tcp:[::zz]:1", "no IPv6 address"),
            ("tcp:a b:1", "no valid name"),
            ("unix:", "path is missing"),
            ("unix:a\0b", "zero byte"),
            (&long, "at most 107 bytes"),
            ("file:", "path is missing"),
            ("fd:", "name of a descriptor is missing"),
            ("fd:a b", "no spaces"),
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text:?} gave {error}");
            assert!(error.contains(text), "{text:?} gave {error}");
        }
    }

    #[test]
    fn an_absurdly_long_address_is_not_echoed_whole() {
        let error = "é".repeat(100_000).parse::<Address>().unwrap_err().to_string();
        assert!(error.len() < 1000);
    }

    #[test]
    fn only_what_stays_on_this_host_is_loopback() {
        for text in
            ["tcp:127.8.9.1:1", "tcp:[::1]:1", "tcp:[::ffff:127.0.0.1]:1", "tcp:LocalHost:1"]
        {
            assert!(text.parse::<Address>().unwrap().is_loopback(), "{text}");
        }
        for text in ["unix:/x", "fd:x", "file:x"] {
            assert!(text.parse::<Address>().unwrap().is_loopback(), "{text}");
        }
        for text in
            ["tcp:0.0.0.0:1", "tcp:[::]:1", "tcp:10.0.0.1:1", "tcp:localhost.example:1", "tcp:0:1"]
        {
            assert!(!text.parse::<Address>().unwrap().is_loopback(), "{text}");
        }
    }

    fn addresses() -> impl Strategy<Value = Address> {
        prop_oneof![
            ("[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?", any::<u16>()).prop_map(|(h, p)| tcp(&h, p)),
            (any::<Ipv6Addr>(), any::<u16>()).prop_map(|(h, p)| tcp(&h.to_string(), p)),
            "[^\0]{1,26}".prop_map(|p| Address::Unix(p.into())),
            "[^\0]{1,200}".prop_map(|p| Address::File(p.into())),
            "[a-zA-Z0-9_.:-]{1,20}".prop_map(Address::Fd),
        ]
    }

    proptest! {
        #[test]
        fn an_address_reads_back_as_it_was_written(address in addresses()) {
            prop_assert_eq!(address.to_string().parse(), Ok(address));
        }

        #[test]
        fn any_text_is_read_or_refused(text in "(tcp|unix|fd|file|)[:\\[\\]%0-9a-z./ ]{0,40}") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse(), Ok(address));
            }
        }
    }
}
