//! Commands and words that several findings share.

use std::net::IpAddr;

/// What `ss` tells of the connections to an address.
pub(super) fn ss_of(ip: IpAddr) -> String {
    format!("ss -tinm dst {ip}")
}
