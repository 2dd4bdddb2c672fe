//! Addresses from QMP, and what is asked of them here.

use crate::Error;
use links::Address;
use state::Code;

/// An address as the links know it.
///
/// # Errors
/// When no connection can be made to such a thing.
pub(crate) fn of(address: &qmp::command::Address) -> Result<Address, Error> {
    // The links' own rules hold for what comes over QMP as for what is typed.
    address
        .to_string()
        .parse()
        .map_err(|e: links::AddressError| Error::new(Code::InvalidArgument, e.to_string()))
}

/// Nothing is encrypted, so that what leaves this host may be read and changed by others.
///
/// # Errors
/// When that was not said to be acceptable.
pub(crate) fn check_exposure(address: &Address, insecure: bool) -> Result<(), Error> {
    if insecure || address.is_loopback() {
        return Ok(());
    }
    Err(Error::new(
        Code::InvalidArgument,
        format!(
            "{address} is beyond this host, and nothing is encrypted yet: whoever is in between \
             can read and change the guest's memory. If the network is safe, say --insecure \
             (x-whimbrel-insecure over QMP) on both sides"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stays_here_goes_unencrypted_without_a_word() {
        for (text, safe) in [
            ("tcp:127.0.0.1:1", true),
            ("tcp:[::1]:1", true),
            ("unix:/x", true),
            ("fd:x", true),
            ("tcp:10.0.0.1:1", false),
            ("tcp:0.0.0.0:1", false),
            ("tcp:host.example:1", false),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!(check_exposure(&address, false).is_ok(), safe, "{text}");
            assert!(check_exposure(&address, true).is_ok(), "{text}");
        }
    }

    #[test]
    fn an_address_over_qmp_is_the_same_as_a_typed_one() {
        for text in ["tcp:[::1]:1", "tcp:host:65535", "unix:/a:b", "fd:x", "file:/x"] {
            let address = of(&text.parse().unwrap()).unwrap();
            assert_eq!(address.to_string(), text);
        }
        // QMP allows an empty host; here it must be said which addresses are meant.
        assert_eq!(of(&"tcp::1".parse().unwrap()).unwrap_err().code, Code::InvalidArgument);
    }
}
